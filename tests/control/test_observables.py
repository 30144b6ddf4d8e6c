"""Observables: how they compose over time, and what they measure against autodiff and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.runs.precision import double_precision
from tests.control.small import small
from tests.oracles import OPTIMIZERS, relative_error

STEPS = 11


def observed(problem, x0, controls, inputs, observe):
    """The sweep that is cheapest to compile; test_costate.py holds the adjoints against each other."""
    sweep = jax.jit(lambda u: pmp.costate(problem, x0, u, inputs, adjoint=pmp.StoreAll(), observe=observe))
    return sweep(controls)


@functools.cache
def momentum_sweep():
    """One run under momentum, looked at in every way that the tests below need; (plant, states, sweep)."""
    with double_precision():
        plant = small(optimizer=optax.sgd(0.1, momentum=0.9))

        def transport(point):
            following = plant.problem.dynamics.step(point.state, point.control, point.input)
            return sum(
                jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (point.costate_next, following)), strict=True)
            )

        observe = {
            "hamiltonian": obs.hamiltonian,
            "every": obs.every(3, obs.hamiltonian),
            "twice": obs.every(2, obs.every(2, obs.hamiltonian)),
            "total": obs.total(obs.hamiltonian),
            "every total": obs.every(3, obs.total(obs.hamiltonian)),
            "total every": obs.total(obs.every(3, obs.hamiltonian)),
            "rarely": obs.every(50, obs.hamiltonian),
            "function": lambda point: {"t": point.t, "last": point.control[-1]},
            "every function": obs.every(4, lambda point: point.t),
            "gradient": obs.control_gradient,
            "total gradient": obs.total(obs.control_gradient),
            "contributions": obs.contributions,
            "costate": lambda point: point.costate_next,
            "cotangent": lambda point: point.gradient_cotangent,
            "residual": obs.stationarity(pmp.prox.identity, step=0.5),
            "transport": obs.total(transport),
        }
        states = pmp.rollout(plant.problem, plant.x0, plant.weights, plant.batches, record=lambda x: x).record
        return plant, states, observed(plant.problem, plant.x0, plant.weights, plant.batches, observe)


def test_every_and_total_compose_in_both_orders(float64):
    plant, _, sweep = momentum_sweep()
    seen = sweep.seen
    each = np.asarray(seen["hamiltonian"])
    assert each.shape == (STEPS,)
    np.testing.assert_array_equal(seen["every"], each[::3])  # ceil(11 / 3) = 4 rows
    np.testing.assert_array_equal(seen["twice"], each[::4])
    np.testing.assert_array_equal(seen["rarely"], each[:1])
    np.testing.assert_allclose(seen["total"], each.sum(), rtol=1e-14)
    np.testing.assert_allclose(seen["every total"], each[::3].sum(), rtol=1e-14)
    np.testing.assert_allclose(seen["total every"], each[::3].sum(), rtol=1e-14)
    np.testing.assert_array_equal(seen["function"]["t"], np.arange(STEPS))
    np.testing.assert_array_equal(seen["function"]["last"], plant.weights[:, -1])
    np.testing.assert_array_equal(seen["every function"], [0, 4, 8])
    np.testing.assert_allclose(seen["total gradient"], seen["gradient"].sum(axis=0), rtol=1e-12)


def test_a_period_below_one_is_refused():
    with pytest.raises(ValueError, match=r"every\(0.*period"):
        obs.every(0, obs.hamiltonian)


def test_an_observable_is_evaluated_on_its_period_only():
    evaluated = []

    def counted(name):
        def count(point):
            jax.debug.callback(lambda t: evaluated.append((name, int(t))), point.t)
            return point.hamiltonian

        return count

    problem = pmp.Problem(pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u), pmp.Cost(terminal=lambda x: x**2))
    observe = [obs.every(4, counted("stacked")), obs.total(obs.every(3, counted("summed")))]
    observed(problem, 1.0, jnp.ones(10), None, observe)
    jax.effects_barrier()
    assert sorted(t for name, t in evaluated if name == "stacked") == [0, 4, 8]
    assert sorted(t for name, t in evaluated if name == "summed") == [0, 3, 6, 9]


@pytest.mark.parametrize("chunk", [None, 4])
def test_extra_directions_give_minus_the_product_of_each_given_direction_and_each_gradient(float64, chunk):
    plant = small()
    keys = jax.random.split(jax.random.key(3), 2)
    others = [jax.tree.map(lambda leaf, key=key: jax.random.normal(key, leaf.shape), plant.x0.params) for key in keys]
    observe = {
        "all": obs.contributions_of(plant.losses, plant.instances, chunk=chunk, extra_directions=others),
        "own": obs.contributions_of(plant.losses, plant.instances),
    }
    observe = {name: obs.every(STEPS, o) for name, o in observe.items()}
    seen = observed(plant.problem, plant.x0, plant.weights, plant.batches, observe).seen
    gradients = jax.jacobian(plant.losses)(plant.x0.params, plant.instances)
    count = len(jax.tree.leaves(plant.instances)[0])

    def product(direction):
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
        return sum(each.reshape(count, -1) @ leaf.ravel() for each, leaf in pairs)

    assert seen["all"].shape == (1, 3, count)
    np.testing.assert_allclose(seen["all"][0, 0], seen["own"][0], rtol=1e-10)
    np.testing.assert_allclose(seen["all"][0, 1:], -jnp.stack([product(other) for other in others]), rtol=1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "clipped adam", "multi-step"])
def test_contributions_of_any_instance_are_minus_the_derivative_in_its_weight(float64, optimizer):
    """Add every instance of a set with weight zero to each step; autodiff in these weights is the oracle."""
    plant = small(optimizer=OPTIMIZERS[optimizer]())
    observe = {"whole": obs.contributions_of(plant.losses, plant.instances)}
    if optimizer == "sgd":
        observe |= {str(n): obs.contributions_of(plant.losses, plant.instances, chunk=n) for n in (1, 3, 4, 100)}
        observe |= {"sum": obs.total(obs.every(2, obs.contributions_of(plant.losses, plant.instances, chunk=2)))}
    seen = observed(plant.problem, plant.x0, plant.weights, plant.batches, observe).seen

    def extended(params, batch):
        return jnp.concatenate([plant.losses(params, batch), plant.losses(params, plant.instances)])

    larger = plant.problem._replace(dynamics=pmp.training_dynamics(extended, OPTIMIZERS[optimizer]()))

    def value(extra):
        weights = jnp.concatenate([plant.weights, extra], axis=1)
        return pmp.objective(larger, plant.x0, weights, plant.batches)

    expected = -jax.jit(jax.grad(value))(jnp.zeros((STEPS, 9)))
    assert seen["whole"].shape == (STEPS, 9)
    summed = seen.pop("sum", expected[::2].sum(axis=0))
    for name, found in seen.items():  # whole, and in chunks that divide the set, do not, and exceed it
        assert relative_error(found, expected) < 1e-10, name
    assert relative_error(summed, expected[::2].sum(axis=0)) < 1e-10


def test_contributions_are_minus_the_control_gradient(float64):
    plant, _, sweep = momentum_sweep()
    np.testing.assert_array_equal(sweep.seen["contributions"], -sweep.seen["gradient"])
    constant = plant.problem._replace(control_axis=None)
    observe = {"contributions": obs.contributions, "gradient": obs.control_gradient}
    seen = observed(constant, plant.x0, plant.weights[0], plant.batches, observe).seen
    assert seen["contributions"].shape == (4,)
    np.testing.assert_array_equal(seen["contributions"], -seen["gradient"])


def test_hamiltonian_by_hand_and_its_derivative(float64):
    """H_t = l + <lambda_{t+1}, f>, and dH_t/du_t = dJ/du_t by autodiff of that definition."""
    plant, states, sweep = momentum_sweep()

    @jax.jit
    @jax.value_and_grad
    def by_hand(control, state, batch, costate):
        following = plant.problem.dynamics.step(state, control, batch)
        products = jax.tree.map(jnp.vdot, costate, following)
        return plant.desired(state.params) + sum(jax.tree.leaves(products))

    for t in range(STEPS):
        now = (jax.tree.map(lambda leaf: leaf[t], tree) for tree in (states, plant.batches, sweep.seen["costate"]))
        value, gradient = by_hand(plant.weights[t], *now)
        assert relative_error(sweep.seen["hamiltonian"][t], value) < 1e-13
        assert relative_error(sweep.seen["gradient"][t], gradient) < 1e-12


def test_value_is_the_hamiltonians_without_what_they_transport(float64):
    """J = sum_t (H_t - <lambda_{t+1}, x_{t+1}>) + phi(x_T)."""
    plant, states, sweep = momentum_sweep()
    final = plant.desired(jax.tree.map(lambda leaf: leaf[-1], states.params))
    assert relative_error(sweep.value, sweep.seen["total"] - sweep.seen["transport"] + final) < 1e-12


def test_the_gradient_cotangent_is_where_the_gradient_enters(float64):
    """v' = 0.9 v + g, theta' = theta - 0.1 v': the gradient is seen through both."""
    _, _, sweep = momentum_sweep()
    params, trace = sweep.seen["costate"].params["unit"], jax.tree.leaves(sweep.seen["costate"].opt_state)
    np.testing.assert_allclose(sweep.seen["cotangent"]["unit"], trace[0] - 0.1 * params, rtol=1e-12, atol=1e-15)


def test_stationarity_without_constraints_is_the_length_of_the_step(float64):
    _, _, sweep = momentum_sweep()
    expected = 0.5 * np.linalg.norm(sweep.seen["gradient"], axis=-1)
    np.testing.assert_allclose(sweep.seen["residual"], expected, rtol=1e-12)


def test_stationarity_on_the_simplex(float64):
    """By hand: the residual is zero where the gradient only pushes against the boundary."""
    problem = pmp.Problem(pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u[0]), pmp.Cost(terminal=lambda x: x))
    observe = obs.stationarity(pmp.prox.simplex, step=0.5)
    sweep = observed(problem, 0.0, jnp.array([[0.0, 1.0], [0.5, 0.5]]), None, observe)
    np.testing.assert_allclose(sweep.seen, [0.0, 0.25 * 2**0.5], atol=1e-15)


def test_alignment_is_the_contribution_of_the_learning_law(float64):
    """For SGD eta <grad J(theta_t), grad l_n(theta_t)>."""
    plant = small()
    observe = {"law": obs.alignment, "params": lambda point: point.state.params}
    seen = observed(plant.problem, plant.x0, plant.weights, plant.batches, observe).seen

    @jax.jit
    @jax.vmap
    def by_hand(params, batch):
        return 0.1 * jax.jacfwd(plant.losses)(params, batch)["unit"] @ jax.grad(plant.desired)(params)["unit"]

    assert relative_error(seen["law"], by_hand(seen["params"], plant.batches)) < 1e-12


def test_alignment_needs_a_running_cost(float64):
    plant = small(cost=pmp.terminal_loss)
    with pytest.raises(ValueError, match=r"alignment.*pmpjax\.area_under"):
        observed(plant.problem, plant.x0, plant.weights, plant.batches, obs.alignment)


def test_contributions_of_needs_training_dynamics_and_one_loss_an_instance(float64):
    plain = pmp.Problem(pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u), pmp.Cost(terminal=lambda x: x**2))
    observe = obs.contributions_of(lambda x, z: x * z, jnp.ones(3), parameters=lambda x: x)
    with pytest.raises(ValueError, match=r"contributions_of.*gradient_cotangent.*training_dynamics"):
        observed(plain, 1.0, jnp.ones(3), None, observe)
    plant = small()
    reduced = obs.contributions_of(lambda params, rows: plant.losses(params, rows).mean(), plant.instances, chunk=2)
    with pytest.raises(ValueError, match=r"contributions_of.*\(\), expected \(2,\)"):
        observed(plant.problem, plant.x0, plant.weights, plant.batches, reduced)


def test_observables_do_not_change_the_sweep(float64):
    plant, _, watched = momentum_sweep()
    bare = observed(plant.problem, plant.x0, plant.weights, plant.batches, None)
    assert bare.seen is None
    assert relative_error(bare.costate.params, watched.costate.params) < 1e-14
    assert relative_error(bare.value, watched.value) < 1e-15
