"""The outer loop on problems whose optimum is known, and its promises: descent, resumption, statuses."""

import itertools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq, minimize

import pmpjax as pmp
from pmpjax import observables as obs
from tests.control.small import small
from tests.oracles import regulator, relative_error

TARGET = np.array([0.9, 0.4, -0.3, 0.2])
SCALE = np.array([1.0, 4.0, 0.5, 2.0])
FAST = {"adjoint": pmp.StoreAll()}  # the cheapest to compile; test_costate.py holds the adjoints against each other


def quadratic(prox):
    """J = 1 + sum_i s_i (u_i - target_i)^2, u = controls['u'][0], as the terminal cost of one step from zero."""
    dynamics = pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u["u"])
    cost = pmp.Cost(
        terminal=lambda x: 1.0 + jnp.sum(jnp.asarray(SCALE, x.dtype) * (x - jnp.asarray(TARGET, x.dtype)) ** 2)
    )
    return pmp.Problem(dynamics, cost, prox=prox), jnp.zeros(4), {"u": pmp.uniform(1, 4)}


def optimum(name):
    """In closed form: u = target - mu / 2s clipped to the set, mu the multiplier of the sum."""
    if name == "simplex":
        mu = brentq(lambda mu: np.sum(np.maximum(TARGET - mu / (2 * SCALE), 0.0)) - 1.0, -100.0, 100.0, xtol=1e-15)
        return np.maximum(TARGET - mu / (2 * SCALE), 0.0)
    return np.clip(TARGET, 0.1, 0.6) if name == "box" else TARGET


SETS = {"identity": pmp.prox.identity, "simplex": pmp.prox.simplex, "box": pmp.prox.box(0.1, 0.6)}
FIRST_ORDER = [
    ("identity", pmp.ProximalGradient()),
    ("simplex", pmp.ProximalGradient()),
    ("box", pmp.ProximalGradient()),
    ("simplex", pmp.ProximalGradient(rule=optax.sgd(1.0, momentum=0.5))),
    ("identity", pmp.ProximalGradient(rule=optax.adam(0.1))),
    ("simplex", pmp.MirrorDescent()),
    ("simplex", pmp.MirrorDescent(rule=optax.sgd(1.0, momentum=0.7), grow=1.25, shrink=0.5)),
    ("box", pmp.FrankWolfe()),
    ("simplex", pmp.FrankWolfe()),
]


def label(value):
    if not isinstance(value, pmp.AbstractSolver):
        return value
    return type(value).__name__ + (" with a rule" if getattr(value, "rule", None) else "")


def never_rises(history):
    accepted = [record.value for record in history if record.accepted]
    return all(later <= earlier for earlier, later in itertools.pairwise(accepted))


@pytest.mark.parametrize(("name", "solver"), FIRST_ORDER, ids=label)
def test_solvers_reach_the_optimum_of_a_convex_problem(float64, name, solver):
    problem, x0, controls = quadratic(SETS[name])
    start = controls if name != "box" else {"u": jnp.full((1, 4), 0.3)}
    solution = pmp.solve(problem, x0, start, None, solver, sweeps=400, tolerance=1e-9, **FAST)
    expected = optimum(name)
    best = 1.0 + float(np.sum(SCALE * (expected - TARGET) ** 2))
    # Frank and Wolfe's method zigzags where the optimum lies on a face; the others converge linearly.
    accuracy = 1e-2 if isinstance(solver, pmp.FrankWolfe) else 1e-4
    np.testing.assert_allclose(solution.controls["u"][0], expected, atol=accuracy)
    assert never_rises(solution.history)
    assert solution.value == min(record.value for record in solution.history)
    assert float(SETS[name].violation(solution.controls["u"])) < 1e-12
    if name == "identity":
        assert np.isnan(solution.gap)
    else:
        # The gap bounds what is still to be had, since J is convex.
        assert -1e-12 <= solution.value - best <= solution.gap + 1e-12
        assert solution.gap < 2e-2


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (pmp.ProximalGradient(), 1e-6),
        (pmp.ProximalGradient(rule=optax.sgd(1.0, momentum=0.8)), 1e-6),
        (pmp.ProximalGradient(rule=optax.adam(0.3)), 1e-3),
    ],
    ids=["gradient", "momentum", "adam"],
)
def test_regulator_is_solved(float64, solver, tolerance):
    plant = regulator(5)
    controls, _, value = plant.riccati()
    solution = pmp.solve(
        plant.problem(), plant.start, jnp.zeros((5, 2)), None, solver, sweeps=300, tolerance=1e-9, **FAST
    )
    assert value <= solution.value * (1 + 1e-12) and solution.value < value * (1 + tolerance)
    assert relative_error(solution.controls, controls) < 10 * tolerance**0.5
    assert never_rises(solution.history)


def test_constant_controls_on_the_simplex(float64):
    """One weight an example for all steps, as in PDS, against a general solver with autodiff's gradient."""
    plant = small(6, prox=pmp.prox.simplex)
    problem = plant.problem._replace(control_axis=None, input_axis=None, horizon=6)
    batch = jax.tree.map(lambda leaf: leaf[0], plant.batches)
    solution = pmp.solve(
        problem, plant.x0, pmp.uniform(4), batch, pmp.MirrorDescent(), sweeps=150, tolerance=1e-7, **FAST
    )
    value = jax.jit(jax.value_and_grad(lambda u: pmp.objective(problem, plant.x0, u, batch)))
    best = minimize(
        lambda u: tuple(np.asarray(part, np.float64) for part in value(u)),
        np.full(4, 0.25),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * 4,
        constraints={"type": "eq", "fun": lambda u: np.sum(u) - 1.0},
        options={"ftol": 1e-12},
    )
    assert solution.controls.shape == (4,)
    assert abs(solution.value - best.fun) < 1e-6 * best.fun
    assert solution.value < solution.history[0].value


def test_backtracking_recovers_from_a_first_step_far_too_large(float64):
    problem, x0, controls = quadratic(pmp.prox.identity)
    solution = pmp.solve(problem, x0, controls, None, pmp.ProximalGradient(step=1e9), sweeps=200, **FAST)
    np.testing.assert_allclose(solution.controls["u"][0], TARGET, atol=1e-4)
    assert not solution.history[1].accepted and solution.history[1].value > 1e9
    assert solution.status is pmp.SolveStatus.CONVERGED


def test_a_trial_that_is_not_finite_is_refused(float64):
    """J = x^2 - log(x) + 1 / x beyond a pole: the first trials land where J is NaN."""
    problem = pmp.Problem(
        pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u), pmp.Cost(terminal=lambda x: x**2 - jnp.log(x))
    )
    solution = pmp.solve(problem, 1.0, jnp.array([3.0]), None, pmp.ProximalGradient(step=100.0), sweeps=60, **FAST)
    assert np.isnan(solution.history[1].value) and not solution.history[1].accepted
    np.testing.assert_allclose(1.0 + solution.controls[0], 0.5**0.5, atol=1e-5)


def through_numpy(state, folder):
    return jax.tree.map(np.asarray, state)


def through_pickle(state, folder):
    return pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))


def through_a_file(state, folder):
    leaves, structure = jax.tree.flatten(state)
    np.savez(folder / "state.npz", **{str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)})
    with np.load(folder / "state.npz") as stored:
        return structure.unflatten([stored[str(i)] for i in range(len(leaves))])


@pytest.mark.parametrize(
    ("solver", "stored", "done_before"),
    [
        (pmp.MirrorDescent(step=20.0, rule=optax.sgd(1.0, momentum=0.7)), through_a_file, (1, 5)),
        (pmp.ProximalGradient(rule=optax.adam(0.5), step=3.0), through_pickle, (7,)),
        (pmp.FrankWolfe(step=1.0), through_numpy, (3,)),
    ],
    ids=["mirror, npz", "proximal with adam, pickle", "frank-wolfe, numpy"],
)
def test_a_run_resumes_bit_for_bit(tmp_path, solver, stored, done_before):
    problem, x0, controls = quadratic(pmp.prox.simplex)
    states = []

    def go(sweeps, **more):
        observe = {"contributions": obs.contributions}
        return pmp.solve(problem, x0, controls, None, solver, sweeps=sweeps, observe=observe, **FAST, **more)

    whole = go(12, callback=lambda progress: states.append(progress.state))
    assert len(states) == 12 and {record.accepted for record in whole.history[1:]} == {True, False}
    for done in done_before:
        rest = go(12 - done, resume=stored(states[done - 1], tmp_path))
        assert rest.history == whole.history[done:]
        same = jax.tree.map(lambda a, b: np.array_equal(a, b) and a.dtype == b.dtype, rest.state, whole.state)
        assert all(jax.tree.leaves(same))
        assert (
            np.array_equal(rest.seen["contributions"]["u"], whole.seen["contributions"]["u"])
            and rest.value == whole.value
        )


def test_progress_and_observables_are_of_the_best_controls(float64):
    problem, x0, controls = quadratic(pmp.prox.simplex)
    seen = []
    solution = pmp.solve(
        problem,
        x0,
        controls,
        None,
        pmp.MirrorDescent(step=20.0),
        sweeps=8,
        observe=obs.control_gradient,
        callback=seen.append,
        **FAST,
    )
    assert [progress.sweep for progress in seen] == list(range(1, 9))
    assert any(not progress.accepted for progress in seen)
    for progress, record in zip(seen, solution.history, strict=True):
        assert (progress.sweep, progress.accepted, progress.step) == (record.sweep, record.accepted, record.step)
    value = jax.jit(jax.value_and_grad(lambda u: pmp.objective(problem, x0, u, None)))
    for progress in seen:
        expected, gradient = value(progress.controls)
        assert relative_error(progress.value, expected) < 1e-13
        assert relative_error(progress.seen, gradient) < 1e-11
    np.testing.assert_array_equal(solution.controls["u"], seen[-1].controls["u"])


def test_statuses_budgets_and_messages(float64):
    problem, x0, controls = quadratic(pmp.prox.identity)

    def go(solver=pmp.ProximalGradient(), start=controls, **more):
        return pmp.solve(problem, x0, start, None, solver, **FAST, **more)

    budget = go(sweeps=3)
    assert budget.status is pmp.SolveStatus.BUDGET and len(budget.history) == 3
    assert int(budget.state.sweeps) == 3 and "budget" in budget.message
    one = go(sweeps=1)
    assert one.status is pmp.SolveStatus.BUDGET and len(one.history) == 1
    np.testing.assert_array_equal(one.controls["u"], controls["u"])

    stopped = go(callback=lambda progress: progress.sweep == 2)
    assert stopped.status is pmp.SolveStatus.STOPPED and len(stopped.history) == 2
    assert go(callback=lambda progress: True).status is pmp.SolveStatus.STOPPED

    near = go(start={"u": jnp.asarray(TARGET)[None] + 1e-9})
    assert near.status is pmp.SolveStatus.CONVERGED and len(near.history) == 1
    assert 0.0 < near.residual < 1e-6

    # Nothing moves J exactly at the optimum, and nothing does where the sweep is broken: no convergence is claimed.
    at_optimum = go(start={"u": jnp.asarray(TARGET)[None]})
    assert at_optimum.status is pmp.SolveStatus.NO_DERIVATIVE and at_optimum.residual == 0.0

    # No trial delivers three times the predicted decrease of a convex function.
    stalled = go(solver=pmp.ProximalGradient(decrease=3.0, smallest_step=1e-3))
    assert stalled.status is pmp.SolveStatus.STALLED
    assert stalled.history[-1].step < 1e-3 <= stalled.history[-2].step
    np.testing.assert_array_equal(stalled.controls["u"], controls["u"])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda x, u, w: 1e200 * x * u, r"x_t is not finite from step 2 .*lower the step size"),
        (lambda x, u, w: jnp.sqrt(x * (u - 1.0)) + x, r"costate is not finite from step \d+ back\)$"),
    ],
    ids=["state", "costate"],
)
def test_a_diverging_plant_is_a_status(float64, step, words):
    problem = pmp.Problem(pmp.Dynamics(jnp.asarray, step), pmp.Cost(terminal=lambda x: x))
    solution = pmp.solve(problem, 1.0, jnp.ones(4), None, sweeps=5, **FAST)
    assert solution.status is pmp.SolveStatus.DIVERGED
    assert re.search(words, solution.message)


def test_a_weight_that_is_zero_or_underflows_returns_under_mirror_descent():
    target = jnp.array([0.0, 1.0, 0.0])
    problem = pmp.Problem(
        pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u),
        pmp.Cost(terminal=lambda x: jnp.sum((x - target) ** 2)),
        prox=pmp.prox.simplex,
    )
    start = jnp.array([[1.0, 0.0, 0.0]])
    solution = pmp.solve(problem, jnp.zeros(3), start, None, pmp.MirrorDescent(), sweeps=60, **FAST)
    np.testing.assert_allclose(solution.controls[0], target, atol=1e-2)

    logits = jax.nn.log_softmax(jnp.array([-300.0, 0.0, 0.0]))
    solver, found = pmp.MirrorDescent(step=100.0), pmp.Evaluation(jnp.zeros(()), jnp.array([-1.0, 0.0, 0.0]))
    state = solver.init(pmp.prox.simplex, jnp.exp(logits), found)._replace(point=logits)
    assert float(state.controls[0]) == 0.0
    for _ in range(4):
        state = state._replace(**solver.propose(pmp.prox.simplex, state)._asdict())
    assert float(state.controls[0]) > 0.999


def test_solvers_refuse_sets_that_they_cannot_step_on():
    problem, x0, controls = quadratic(pmp.prox.identity)
    with pytest.raises(ValueError, match=r"FrankWolfe.*'identity'.*prox\.box"):
        pmp.solve(problem, x0, controls, None, pmp.FrankWolfe())
    box = problem._replace(prox=pmp.prox.box(0.0, 1.0))
    with pytest.raises(ValueError, match=r"MirrorDescent.*'box\(0.0, 1.0\)'.*prox\.simplex"):
        pmp.solve(box, x0, controls, None, pmp.MirrorDescent())


@pytest.mark.parametrize("solver", [pmp.ProximalGradient, pmp.MirrorDescent, pmp.FrankWolfe])
def test_solvers_refuse_senseless_numbers(solver):
    with pytest.raises(ValueError, match=r"grow 0\.5"):
        solver(grow=0.5)
    with pytest.raises(ValueError, match=r"shrink 1\.5"):
        solver(shrink=1.5)
    with pytest.raises(ValueError, match=r"step -1\.0"):
        solver(step=-1.0)
