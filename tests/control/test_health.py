"""A sweep's status: what was first not finite, where, and a hint that is true."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from tests.control.small import small

STEPS = 8


def health_of(plant, **changes):
    arguments = {"weights": plant.weights, "batches": plant.batches, "problem": plant.problem} | changes
    run = jax.jit(
        lambda x, u, w: pmp.costate(arguments["problem"], x, u, w, adjoint=pmp.StoreAll(), observe=obs.control_gradient)
    )
    return run(plant.x0, arguments["weights"], arguments["batches"]).health


def with_losses(plant, losses, desired=None, optimizer=None):
    dynamics = pmp.training_dynamics(losses, optax.sgd(0.1) if optimizer is None else optimizer)
    return pmp.Problem(dynamics, pmp.area_under(plant.desired if desired is None else desired))


def check(health, status, step, hint):
    assert (pmp.Status(int(health.status)), int(health.step)) == (status, step)
    assert ("lower the step size" in health.describe()) == hint
    assert str(step) in health.describe()


@pytest.mark.parametrize("at", [0, 5])
def test_a_label_that_is_no_number(float64, at):
    plant = small(STEPS)
    batches = plant.batches[0], plant.batches[1].at[at, 1].set(jnp.nan)
    check(health_of(plant, batches=batches), pmp.Status.LOSS_NOT_FINITE, at, hint=False)


def test_a_desired_loss_of_nothing(float64):
    """0 / 0 at the first step: J is NaN, and the plant is not to blame."""
    plant = small(STEPS)
    problem = plant.problem._replace(cost=pmp.area_under(lambda params: plant.desired(params) * jnp.log(0.0) * 0.0))
    check(health_of(plant, problem=problem), pmp.Status.COST_NOT_FINITE, 0, hint=False)


def test_a_terminal_loss_that_is_not_finite(float64):
    plant = small(STEPS)
    problem = plant.problem._replace(cost=pmp.terminal_loss(lambda params: jnp.log(-jnp.sum(params["unit"] ** 2))))
    check(health_of(plant, problem=problem), pmp.Status.COST_NOT_FINITE, STEPS, hint=False)


def test_a_gradient_that_is_not_finite(float64):
    """A norm at zero in the losses, at the step whose inputs are zero."""
    plant = small(STEPS)

    def losses(params, batch):
        return plant.losses(params, batch) + jnp.sqrt(jnp.square(batch[0] @ params["unit"]))

    batches = plant.batches[0].at[3].set(0.0), plant.batches[1]
    health = health_of(plant, problem=with_losses(plant, losses), batches=batches)
    check(health, pmp.Status.GRADIENT_NOT_FINITE, 3, hint=False)


def test_the_derivative_of_the_desired_loss_is_not_finite(float64):
    plant = small(STEPS)
    problem = with_losses(
        plant, plant.losses, lambda params: plant.desired(params) + jnp.sqrt(0.0 * params["unit"][0] ** 2)
    )
    check(health_of(plant, problem=problem), pmp.Status.COST_DERIVATIVE_NOT_FINITE, STEPS, hint=False)


def test_an_update_that_divides_by_nothing(float64):
    """x_1 is not finite although losses and gradient are, and nothing grew: the step size is not to blame."""

    def update(gradients, state, params=None):
        return jax.tree.map(lambda g: -g / (g - g), gradients), state

    plant = small(STEPS)
    rule = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    health = health_of(plant, problem=with_losses(plant, plant.losses, optimizer=rule))
    check(health, pmp.Status.STATE_NOT_FINITE, 1, hint=False)


def test_a_plant_whose_states_explode_is_told_to_lower_the_step(float64):
    def losses(params, batch):
        return jnp.sum(params["unit"] ** 4) + 0.0 * batch[1]

    plant = small(60)
    health = health_of(
        plant, problem=with_losses(plant, losses, lambda params: 0.0 * jnp.sum(params["unit"]), optax.sgd(5.0))
    )
    assert pmp.Status(int(health.status)) in (pmp.Status.LOSS_NOT_FINITE, pmp.Status.GRADIENT_NOT_FINITE)
    assert "lower the step size" in health.describe()


def test_a_cost_that_nothing_reaches(float64):
    plant = small(STEPS)
    health = health_of(plant, problem=plant.problem._replace(cost=pmp.terminal_loss(lambda params: jnp.float64(1.0))))
    assert int(health.status) == pmp.Status.CONTROL_GRADIENT_ZERO and "J does not depend" in health.describe()


def test_an_ordinary_sweep_raises_no_alarm(float64):
    plant = small(STEPS, optimizer=optax.adam(1e-2))
    health = health_of(plant)
    assert int(health.status) == pmp.Status.OK and int(health.step) == -1
    assert health.describe().startswith("finite") and ";" in health.describe() and "lower" not in health.describe()
    np.testing.assert_allclose(health.state_sizes[0], np.max(np.abs(plant.x0.params["unit"])))
    assert health.norms.shape == health.state_sizes.shape == (STEPS + 1,) and health.parameter_norms.shape == (STEPS,)


# Dynamics that are no training


def swept(step, start, steps, inputs=None):
    problem = pmp.Problem(pmp.Dynamics(jnp.asarray, step), pmp.Cost(terminal=lambda x: x))
    run = jax.jit(lambda x, u: pmp.costate(problem, x, u, inputs, adjoint=pmp.StoreAll(), observe=obs.control_gradient))
    return run(start, jnp.ones(steps)).health


def test_a_diverging_state_is_a_status_with_its_step():
    """x_{t+1} = 1e15 x_t: 1e30 at t = 2, beyond float32 at t = 3."""
    check(swept(lambda x, u, w: 1e15 * x * u, 1.0, 6), pmp.Status.STATE_NOT_FINITE, 3, hint=True)


def test_a_diverging_costate_is_a_status_with_its_step():
    """x stays zero and the costate grows by 1e15 a step: 1e30 at t = 4, beyond float32 at t = 3, of T = 6."""
    health = swept(lambda x, u, w: 1e15 * x * u, 0.0, 6)
    check(health, pmp.Status.COSTATE_NOT_FINITE, 3, hint=True)
    np.testing.assert_allclose(health.norms[5:], [1e15, 1.0], rtol=1e-6)


def test_a_plant_unstable_for_its_costate_is_told_to_lower_the_step():
    """A step of 30 on curvature 2: theta stays between two examples, the costate grows 59-fold a step."""
    dynamics = pmp.training_dynamics(lambda params, batch: (params - batch) ** 2, optax.sgd(30.0))
    problem = pmp.Problem(dynamics, pmp.terminal_loss(lambda params: params))
    batches = jnp.tile(jnp.array([1.0, -1.0]), (6, 1))
    health = pmp.costate(problem, dynamics.init(0.0), jnp.full((6, 2), 0.5), batches, adjoint=pmp.StoreAll()).health
    assert int(health.status) == pmp.Status.OK and health.explodes
    assert health.growth == pytest.approx(59.0**5, rel=1e-4)
    assert "unstable" in health.describe() and "lower the step size" in health.describe()
