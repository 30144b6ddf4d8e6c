"""The two estimators of an instance's worth are exact derivatives of the area under the desired loss, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.models import Decoder, DecoderConfig, Rows, example_losses, initialise
from pmpjax.pds.solve import SolveConfig, Step, agreement, batch_scores, score_instances
from tests.oracles import OPTIMIZERS, classifier
from tests.pds.synthetic import LENGTH, VOCABULARY

STEPS, BATCH, INSTANCES = 7, 3, 8


def index_of_batches():
    """The instances of each batch: one of them twice in a batch, the last one in none."""
    index = np.random.default_rng(0).integers(0, INSTANCES - 1, (STEPS, BATCH))
    index[2] = [4, 4, 1]
    return index


def random_rows(key, *shape):
    tokens = jax.random.randint(key, (*shape, LENGTH), 0, VOCABULARY)
    return Rows(tokens, jax.random.randint(jax.random.fold_in(key, 1), shape, 2, LENGTH + 1))


def test_the_estimators_are_minus_the_derivatives_of_the_area_in_each_weight(float64):
    config = SolveConfig(steps=STEPS, batch=BATCH, learning_rate=0.3, dev_batch=4, every=1, chunk=5)
    decoder = Decoder(DecoderConfig(VOCABULARY, 8, 1, 2, 1, 12))
    losses = example_losses(decoder)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    instances, index = random_rows(jax.random.key(3), INSTANCES), index_of_batches()
    steps = Step(jax.tree.map(lambda leaf: leaf[index], instances), random_rows(jax.random.key(2), STEPS, 4))

    def area(gamma, added):
        """SGD on sum_b (N / B) gamma[index_tb] l + sum_n added[t, n] l_n, and the sum of the desired losses."""

        def step(theta, now):
            (train, dev), places, more = now

            def loss(p):
                weights = gamma[places] * (INSTANCES / BATCH)
                return jnp.vdot(weights, losses(p, train)) + jnp.vdot(more, losses(p, instances))

            following = jax.tree.map(lambda p, g: p - config.learning_rate * g, theta, jax.grad(loss)(theta))
            return following, losses(theta, dev).mean()

        theta, desired = jax.lax.scan(step, params, (steps, index, added))
        return desired.sum() + losses(theta, jax.tree.map(lambda leaf: leaf[-1], steps.dev)).mean()

    none = jnp.zeros((STEPS, INSTANCES))
    value, (by_gamma, by_added) = jax.jit(jax.value_and_grad(area, argnums=(0, 1)))(pmp.uniform(INSTANCES), none)
    for every in (1, 4):
        solved = score_instances(dataclasses.replace(config, every=every), decoder, params, steps, instances)
        batch = batch_scores(solved.sweep.seen["gradient"], index, INSTANCES)
        np.testing.assert_allclose(solved.sweep.value, value, rtol=1e-12)
        for found, derivative in ((batch, by_gamma), (solved.scores, every * by_added[::every].sum(axis=0))):
            scale = float(jnp.abs(derivative).max())
            assert scale > 1e-3
            np.testing.assert_allclose(found, -derivative, rtol=1e-10, atol=1e-10 * scale)
        assert batch[INSTANCES - 1] == 0 and solved.scores[INSTANCES - 1] != 0


@pytest.mark.parametrize("rule", ["sgd", "adamw", "clipped adam"])
def test_the_scattered_gradient_is_that_of_a_control_constant_in_time_through_any_rule(float64, rule):
    problem_of, index = classifier(instances=INSTANCES), index_of_batches()
    inputs = (jax.tree.map(lambda leaf: leaf[index], problem_of.instances), jnp.asarray(index))

    def gradient(control_axis, controls, **options):
        dynamics = pmp.training_dynamics(
            lambda params, step: problem_of.losses(params, step[0]), OPTIMIZERS[rule](), **options
        )
        problem = pmp.Problem(dynamics, pmp.area_under(problem_of.desired), control_axis=control_axis)
        observe = {"gradient": obs.control_gradient}
        return pmp.costate(problem, dynamics.init(problem_of.params), controls, inputs, observe=observe).seen[
            "gradient"
        ]

    varying = gradient(0, pmp.uniform(STEPS, BATCH))
    constant = gradient(None, pmp.uniform(INSTANCES), index=lambda step: step[1])
    found = batch_scores(varying, index, INSTANCES)
    np.testing.assert_allclose(found, -constant, rtol=1e-10, atol=1e-10 * float(jnp.abs(constant).max()))


def test_the_estimators_agree_over_the_draw_of_the_batches():
    # Worths that hardly change along the run, seen through batches: equal but for the noise.
    generator = np.random.default_rng(0)
    worth = generator.normal(size=40)
    steps, batch = 30, 4
    index = generator.integers(0, 40, (steps, batch))
    index[index == 7] = 8
    each = worth[index] * (1 + 0.1 * generator.normal(size=index.shape))
    estimate = np.asarray(batch_scores(jnp.asarray(-each), index, 40))
    facts = agreement(steps * worth, estimate, index)
    assert facts["met"] == len(np.unique(index)) < 40
    assert facts["slope"] == pytest.approx(1, abs=0.05)
    assert facts["spearman"] > 0.97 and 0.01 < facts["residual"] < 0.2
    opposite = agreement(-steps * worth, estimate, index)
    assert opposite["slope"] == pytest.approx(-facts["slope"]) and opposite["spearman"] == -facts["spearman"]
    assert agreement(np.ones(40), estimate, index)["slope"] is None
