"""The forward scan against a plain loop."""

import jax
import jax.numpy as jnp

import pmpjax as pmp
from tests.oracles import OPTIMIZERS, classifier, relative_error


def test_rollout_and_objective_agree_with_a_plain_loop(float64):
    plant = classifier(5)
    dynamics = pmp.training_dynamics(plant.losses, OPTIMIZERS["momentum"]())
    problem = pmp.Problem(dynamics, pmp.area_under(plant.desired))
    x0, controls, inputs = dynamics.init(plant.params), plant.weights, plant.batches
    state, losses = x0, []
    for t in range(5):
        losses.append(plant.desired(state.params))
        state = problem.dynamics.step(state, controls[t], jax.tree.map(lambda leaf: leaf[t], inputs))
    losses.append(plant.desired(state.params))
    run = pmp.rollout(problem, x0, controls, inputs, record=lambda x: plant.desired(x.params))
    assert relative_error(run.record, jnp.stack(losses)) < 1e-14
    assert relative_error(run.final.params, state.params) < 1e-14
    assert relative_error(pmp.objective(problem, x0, controls, inputs), sum(losses)) < 1e-14
