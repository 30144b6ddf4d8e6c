"""What one sweep observes, against rollouts, gradients and masks made without it."""

import jax
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.law import policies, problems
from pmpjax.law.metrics import spread
from pmpjax.law.watch import watch


@pytest.fixture(scope="module")
def swept():
    """One costate sweep over a small problem with a policy that is not uniform."""
    config = problems.PerceptronProblem(dimension=8, train=24, dev=12, test=10, steps=7)
    drawn = problems.draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    x0 = problem.dynamics.init(drawn.params)
    policy = jax.nn.softmax(jax.random.normal(jax.random.key(0), (7, 24)))
    sweep = jax.jit(lambda u: pmp.costate(problem, x0, u, drawn.train, observe=watch(drawn, stride=3)))(policy)
    states = pmp.rollout(problem, x0, policy, drawn.train, record=lambda state: state.params).record
    return config, drawn, problem, x0, policy, sweep.seen, states


def weighted_spread(each, weights):
    used = [np.sqrt(np.average((q - np.average(q, weights=u)) ** 2, weights=u)) for q, u in zip(each, weights)]  # noqa: B905
    return np.sum(used) / np.sum([np.sqrt(np.mean(q**2)) for q in each])


def test_watched_curves_are_those_of_a_rollout(swept):
    _, drawn, _, _, _, seen, states = swept
    for name in ("dev", "test"):
        expected = [problems.mean_loss(params, getattr(drawn, name)) for params in states[:-1]]
        np.testing.assert_allclose(seen[name], expected, rtol=1e-5)


def test_kkt_spread_is_that_of_the_objectives_gradient(swept):
    _, drawn, problem, x0, policy, seen, _ = swept
    contributions = -jax.grad(lambda u: pmp.objective(problem, x0, u, drawn.train))(policy)
    expected = weighted_spread(np.asarray(contributions)[::3], np.asarray(policy)[::3])
    assert spread(seen["kkt"]) == pytest.approx(expected, rel=1e-4)


def test_law_spread_is_that_of_the_inner_products_with_the_desired_gradient(swept):
    _, drawn, _, _, policy, seen, states = swept
    each = jax.vmap(
        jax.grad(lambda params, x, y: problems.losses(params, problems.Examples(x[None], y[None]))[0]), (None, 0, 0)
    )
    each = [
        np.asarray(each(params, *drawn.train) @ jax.grad(problems.mean_loss)(params, drawn.dev))
        for params in states[:7:3]
    ]
    expected = weighted_spread(each, np.asarray(policy)[::3])
    assert spread(seen["law"]) == pytest.approx(expected, rel=1e-4)
    assert spread(seen["law"]) != pytest.approx(spread(seen["kkt"]), rel=1e-2), "the two are different statements"


def test_watched_groups_are_those_of_the_state_at_the_step(swept):
    _, drawn, _, _, policy, seen, states = swept
    expected = policies.relative_weights(policy[3], policies.groups(states[3], drawn.train, drawn.noisy))
    np.testing.assert_allclose(seen["groups"][1], expected, rtol=1e-5)
