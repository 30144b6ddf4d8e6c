"""Both estimates of an instance's score are exact derivatives of the area under the desired loss, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.pds.sweep.batches import Batches
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, Step
from pmpjax.pds.sweep.scores import score_instances
from pmpjax.train import adamw
from tests.corpora import LENGTH, VOCABULARY, warm_start

STEPS, BATCH, INSTANCES = 7, 3, 8


def index_of_batches():
    """The instances of each batch: one of them twice in a batch, the last one in none."""
    index = np.random.default_rng(0).integers(0, INSTANCES - 1, (STEPS, BATCH))
    index[2] = [4, 4, 1]
    return index


def random_rows(key, *shape):
    tokens = jax.random.randint(key, (*shape, LENGTH), 0, VOCABULARY)
    return Rows(tokens, jax.random.randint(jax.random.fold_in(key, 1), shape, 2, LENGTH + 1))


@pytest.mark.parametrize(("rule", "rate"), [pytest.param("sgd", 0.3, marks=pytest.mark.slow), ("adamw", None)])
def test_the_estimates_are_minus_the_derivatives_of_the_area_in_each_weight(float64, rule, rate):
    config = SolveConfig(
        steps=STEPS, batch=BATCH, inner_optimizer=rule, learning_rate=rate, dev_batch=4, every=1, chunk=5
    )
    decoder = Decoder(DecoderConfig(VOCABULARY, 8, 1, 2, 1, 12))
    losses = example_losses(decoder)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    proxy = warm_start(params)
    slower = dataclasses.replace(proxy.optimizer, learning_rate=proxy.optimizer.learning_rate / 4)
    update = optax.sgd(rate) if rule == "sgd" else adamw(slower)
    begin = params, (update.init(params) if rule == "sgd" else proxy.opt_state)
    instances, index = random_rows(jax.random.key(3), INSTANCES), index_of_batches()
    steps = Step(jax.tree.map(lambda leaf: leaf[index], instances), index, random_rows(jax.random.key(2), STEPS, 4))
    generator = np.random.default_rng(1)
    weights = jnp.asarray(generator.dirichlet(np.ones(INSTANCES)))

    def area(gamma, added):
        """The rule on sum_b (N / B) gamma[index_tb] l + sum_n added[t, n] l_n, and the sum of the desired losses."""

        def step(state, now):
            (theta, moments), ((train, places, dev), more) = state, now

            def loss(p):
                weights = gamma[places] * (INSTANCES / BATCH)
                return jnp.vdot(weights, losses(p, train)) + jnp.vdot(more, losses(p, instances))

            change, moments = update.update(jax.grad(loss)(theta), moments, theta)
            return (optax.apply_updates(theta, change), moments), losses(theta, dev).mean()

        (theta, _), desired = jax.lax.scan(step, begin, (steps, added))
        return desired.sum() + losses(theta, jax.tree.map(lambda leaf: leaf[-1], steps.dev)).mean()

    none = jnp.zeros((STEPS, INSTANCES))
    value, (by_gamma, by_added) = jax.jit(jax.value_and_grad(area, argnums=(0, 1)))(weights, none)
    every = 2  # with every = 1 the same sum has all of its terms
    thinned = dataclasses.replace(config, every=every)
    proxy = Proxy(decoder, proxy)
    solved = score_instances(thinned, proxy, Batches(steps, None), instances, weights=weights)
    np.testing.assert_allclose(solved.value, value, rtol=1e-12)
    expected = {"batch": by_gamma, "whole": every * by_added[::every].sum(axis=0)}
    for found, name in ((solved.batch_scores, "batch"), (solved.scores, "whole")):
        scale = float(jnp.abs(expected[name]).max())
        assert scale > 1e-3
        np.testing.assert_allclose(found, -expected[name], rtol=1e-10, atol=1e-10 * scale)
    assert solved.batch_scores[INSTANCES - 1] == 0 and solved.scores[INSTANCES - 1] != 0
