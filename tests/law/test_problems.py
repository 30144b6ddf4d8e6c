"""The reference problem is the one that the design fixes."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax.law import problems
from pmpjax.law.problems import PerceptronProblem, draw


def labels_of_teacher(drawn, examples):
    return np.asarray(examples.x, np.float64) @ np.asarray(drawn.teacher, np.float64) > 0


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_only_training_labels_are_flipped_and_exactly_so_many(noise):
    drawn = draw(PerceptronProblem(noise=noise), seed=1)
    wrong = labels_of_teacher(drawn, drawn.train) != np.asarray(drawn.train.y, bool)
    assert wrong.sum() == round(noise * 4096) and np.array_equal(wrong, drawn.noisy)
    for examples in (drawn.dev, drawn.test, drawn.holdout):
        assert np.array_equal(labels_of_teacher(drawn, examples), np.asarray(examples.y, bool))


def test_sizes_and_moments_are_the_papers():
    drawn = draw(PerceptronProblem(), seed=0)
    assert drawn.train.x.shape == (4096, 128) and drawn.dev.x.shape == drawn.test.x.shape == (512, 128)
    assert abs(float(drawn.train.x.mean())) < 0.01 and abs(float(drawn.train.x.std()) - 1) < 0.01
    assert 0.007 < float(jnp.std(drawn.params)) < 0.013


def test_seeds_are_reproducible_and_parts_independent():
    one, same, other = (draw(PerceptronProblem(), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.train.x, same.train.x) and not np.array_equal(one.train.x, other.train.x)
    resized = draw(PerceptronProblem(dev=30, steps=7), seed=3)
    assert np.array_equal(one.train.x, resized.train.x) and np.array_equal(one.test.x, resized.test.x)


def test_losses_are_binary_cross_entropy_from_logits():
    drawn = draw(PerceptronProblem(train=64), seed=0)
    params = 3 * drawn.teacher
    expected = optax.sigmoid_binary_cross_entropy(drawn.train.x @ params, drawn.train.y)
    np.testing.assert_allclose(problems.losses(params, drawn.train), expected, rtol=1e-4, atol=1e-5)


def test_a_step_of_training_is_gradient_descent_on_the_weighted_loss():
    config = PerceptronProblem(train=16, steps=1)
    drawn = draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    weights = jnp.linspace(0.0, 2.0, 16) / 16
    moved = problem.dynamics.step(problem.dynamics.init(drawn.params), weights, drawn.train).params
    probability = 1 / (1 + jnp.exp(-(drawn.train.x @ drawn.params)))
    gradient = (weights * (probability - drawn.train.y)) @ drawn.train.x
    np.testing.assert_allclose(moved, drawn.params - 0.1 * gradient, rtol=1e-5, atol=1e-7)


def test_the_objective_is_the_plain_sum_of_the_dev_curve():
    config = PerceptronProblem(train=32, dev=16, steps=5)
    drawn = draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    x0, policy = problem.dynamics.init(drawn.params), pmp.uniform(5, 32)
    curve = pmp.rollout(
        problem, x0, policy, drawn.train, record=lambda state: problems.mean_loss(state.params, drawn.dev)
    ).record
    assert curve.shape == (6,)
    np.testing.assert_allclose(pmp.objective(problem, x0, policy, drawn.train), curve.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 0.7}, r"problem\.noise is 0\.7"),
        ({"train": 0}, r"problem\.train is 0"),
        ({"learning_rate": -1.0}, r"problem\.learning_rate is -1\.0"),
    ],
)
def test_impossible_problems_are_refused_by_field(change, message):
    with pytest.raises(ValueError, match=message):
        PerceptronProblem(**change)
