"""The two estimators of an instance's worth are exact derivatives of the area under the desired loss, in float64."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax.models import Decoder, DecoderConfig, Rows, example_losses, initialise
from pmpjax.pds.sweep.problem import SolveConfig, Solved, Step, improve, score_instances
from pmpjax.pds.sweep.scores import agreement, spread_over_time
from pmpjax.train import adamw
from tests.pds.synthetic import LENGTH, VOCABULARY, warm_start

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
def test_the_estimators_are_minus_the_derivatives_of_the_area_in_each_weight(float64, rule, rate):
    config = SolveConfig(steps=STEPS, batch=BATCH, rule=rule, learning_rate=rate, dev_batch=4, every=1, chunk=5)
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
    solved = score_instances(thinned, decoder, proxy, steps, instances, weights=weights)
    np.testing.assert_allclose(solved.sweep.value, value, rtol=1e-12)
    expected = {"batch": by_gamma, "whole": every * by_added[::every].sum(axis=0)}
    for found, name in ((solved.batch_scores, "batch"), (solved.scores, "whole")):
        scale = float(jnp.abs(expected[name]).max())
        assert scale > 1e-3
        np.testing.assert_allclose(found, -expected[name], rtol=1e-10, atol=1e-10 * scale)
    assert solved.batch_scores[INSTANCES - 1] == 0 and solved.scores[INSTANCES - 1] != 0


def test_the_estimators_agree_over_the_draw_of_the_batches():
    # Worths that hardly change along the run, seen through batches: equal but for the noise.
    generator = np.random.default_rng(0)
    worth = generator.normal(size=40)
    steps, batch = 30, 4
    index = generator.integers(0, 40, (steps, batch))
    index[index == 7] = 8
    each = worth[index] * (1 + 0.1 * generator.normal(size=index.shape))
    estimate = np.zeros(40)
    np.add.at(estimate, index, each * 40 / batch)
    facts = agreement(steps * worth, estimate, index)
    assert facts["met"] == len(np.unique(index)) < 40
    assert facts["slope"] == pytest.approx(1, abs=0.05)
    assert facts["spearman"] > 0.97 and 0.01 < facts["residual"] < 0.2
    opposite = agreement(-steps * worth, estimate, index)
    assert opposite["slope"] == pytest.approx(-facts["slope"]) and opposite["spearman"] == -facts["spearman"]
    assert agreement(np.ones(40), estimate, index)["slope"] is None


def test_terms_that_say_the_same_have_no_spread_and_unrelated_ones_all():
    worth = np.random.default_rng(0).normal(size=(2, 2000))
    same = spread_over_time(np.stack([worth[0], 3 * worth[0] + 1]))
    assert same["spearman"] == pytest.approx(1) and same["deviation"] == pytest.approx(0, abs=1e-12)
    other = spread_over_time(worth)
    assert abs(other["spearman"]) < 0.1 and other["deviation"] == pytest.approx(1, abs=0.05)
    assert spread_over_time(worth[:1])["spearman"] is None


def test_outer_steps_lower_the_area_and_take_a_bad_step_back():
    class Found(NamedTuple):
        value: float

    target = jnp.array([0.7, 0.3, 0.0, 0.0])
    seen = []

    def solve_at(weights):
        weights = pmp.uniform(4) if weights is None else weights
        seen.append(weights)
        distance = weights - target
        return Solved(weights, -2 * distance, -2 * distance, -2 * distance[None], Found(float(distance @ distance)))

    (first, last), values = improve(SolveConfig(outer_steps=40, outer_rate=8.0), solve_at)
    np.testing.assert_allclose(first.weights, 0.25)
    assert len(values) == len(seen) == 40
    assert any(b > a for a, b in itertools.pairwise(values)), "at least one step was too long"
    assert last.sweep.value == min(values) < 1e-3
    np.testing.assert_allclose(last.weights, target, atol=0.02)
    assert all(abs(float(weights.sum()) - 1) < 1e-5 and float(weights.min()) >= 0 for weights in seen)
