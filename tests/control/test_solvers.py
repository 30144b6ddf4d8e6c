"""The three functions of a solver, driven by hand: what `descend` does, and Algorithm 1 of PDS as cases of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp

SIMPLEX = pmp.prox.simplex
TARGET = np.array([0.5, 0.1, 0.3, 0.0, 0.1])


def sweep(u):
    """J = 1 + |u - target|^2."""
    value, gradient = jax.value_and_grad(lambda u: 1.0 + jnp.sum((u - TARGET) ** 2))(u)
    return pmp.Evaluation(value, gradient)


def standardised(gradient):
    return (gradient - np.mean(gradient)) / np.std(gradient)


def by_deviations(rate, **more):
    """An example whose contribution is one standard deviation higher gets rate / N more weight."""
    rule = optax.stateless(lambda g, _: jax.tree.map(lambda g: -g / (g.size * jnp.std(g)), g))
    return pmp.ProximalGradient(rule=rule, step=rate, grow=1.0, shrink=0.5, decrease=0.0, **more)


@pytest.mark.parametrize("solver", [pmp.MirrorDescent(step=30.0), pmp.ProximalGradient(), pmp.FrankWolfe()], ids=str)
def test_descend_is_a_loop_over_init_propose_and_judge(float64, solver):
    start = pmp.uniform(5)
    state = solver.init(SIMPLEX, start, sweep(start))
    for _ in range(6):
        proposal = solver.propose(SIMPLEX, state)
        state = solver.judge(SIMPLEX, state, proposal, sweep(proposal.controls))
    solution = pmp.descend(sweep, SIMPLEX, start, solver, sweeps=7, tolerance=0.0)
    np.testing.assert_allclose(solution.controls, state.controls, rtol=1e-12, atol=1e-15)
    assert solution.value == pytest.approx(float(state.value), rel=1e-13)
    assert int(solution.state.sweeps) == int(state.sweeps) == 7
    assert int(solution.state.accepted) == int(state.accepted)


def test_a_refused_proposal_leaves_all_but_the_step(float64):
    solver = pmp.ProximalGradient(step=1.0)
    state = solver.init(SIMPLEX, pmp.uniform(5), sweep(pmp.uniform(5)))
    proposal = solver.propose(SIMPLEX, state)
    worse = sweep(proposal.controls)._replace(value=state.value + 1.0)
    not_finite = worse._replace(value=jnp.nan * state.value)
    for found in (worse, not_finite):
        after = solver.judge(SIMPLEX, state, proposal, found)
        assert float(after.step) == pytest.approx(0.4) and int(after.sweeps) == 2 and int(after.accepted) == 1
        same = state._replace(step=after.step, sweeps=after.sweeps)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), after, same))


def test_steps_in_standard_deviations_that_halve_where_the_objective_does_not_fall(float64):
    """The outer loop of PDS: gamma <- proj(gamma + (rate / N) s / sd(s)); a step is taken back where J did not fall."""
    controls, rate, values = np.full(5, 0.2), 8.0, []
    found = sweep(controls)
    values.append(float(found.value))
    for _ in range(5):
        scores = -np.asarray(found.gradient)
        tried = SIMPLEX(jnp.asarray(controls + rate / 5 * scores / np.std(scores)))
        new = sweep(tried)
        values.append(float(new.value))
        if new.value < found.value:
            controls, found = np.asarray(tried), new
        else:
            rate /= 2
    solution = pmp.descend(sweep, SIMPLEX, pmp.uniform(5), by_deviations(8.0), sweeps=6, tolerance=0.0)
    np.testing.assert_allclose([record.value for record in solution.history], values, rtol=1e-12)
    np.testing.assert_allclose(solution.controls, controls, atol=1e-13)
    assert {record.accepted for record in solution.history[1:]} == {True, False}


def test_one_step_from_uniform_weights(float64):
    """gamma = proj((1 + rate z) / P), z the standardised scores."""
    found, rate = sweep(pmp.uniform(5)), 3.0
    solver = by_deviations(rate)
    proposal = solver.propose(SIMPLEX, solver.init(SIMPLEX, pmp.uniform(5), found))
    z = standardised(-np.asarray(found.gradient))
    np.testing.assert_allclose(proposal.controls, SIMPLEX(jnp.asarray((1 + rate * z) / 5)), atol=1e-13)


def test_a_lazy_step_remembers_what_the_projection_cut_off(float64):
    """After two steps the point ranks by z_1 + z_2, the sum of the standardised scores (dual averaging)."""
    rate, solver = 3.0, by_deviations(3.0, lazy=True)
    first = sweep(pmp.uniform(5))
    state = solver.init(SIMPLEX, pmp.uniform(5), first)
    proposal = solver.propose(SIMPLEX, state)
    second = sweep(proposal.controls)
    state = solver.judge(SIMPLEX, state, proposal, second)
    assert int(state.accepted) == 2 and np.any(np.asarray(state.controls) == 0.0)
    total = standardised(-np.asarray(first.gradient)) + standardised(-np.asarray(second.gradient))
    point = np.asarray(solver.propose(SIMPLEX, state).point)
    np.testing.assert_allclose((point - point.mean()) * 5 / rate, total, atol=1e-12)


def test_an_error_of_the_sweep_ends_the_loop():
    def broken(u):
        raise RuntimeError("the scores would be noise")

    with pytest.raises(RuntimeError, match="noise"):
        pmp.descend(broken, SIMPLEX, pmp.uniform(5))
