"""Weights on groups: the problem's J and gradient against the shared scores of options, and what is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax import observables
from pmpjax.contexts import attach, build_context, fit_group_weights, group_problem
from pmpjax.models import Decoder, DecoderConfig, empty_cache, initialise
from pmpjax.models.layers import apply
from pmpjax.scoring.options import Item, option_log_probabilities
from tests.contexts.structured_prompting.test_context import groups

CONFIG = DecoderConfig(vocabulary=19, width=16, layers=2, heads=4, key_value_heads=2, hidden=12, scan_layers=True)
ITEMS = [Item([5, 6, 7], [[1], [2, 3]]), Item([8], [[2], [4, 4], [9]]), Item([1, 2], [[9], [5, 1]])]
LABELS = [1, 0, 0]


def made():
    """As arrays of the test's own precision."""
    decoder, params, context = _made(jnp.zeros(()).dtype)
    return decoder, jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, context)


@functools.cache
def _made(dtype):
    decoder = Decoder(CONFIG)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(dtype) * 0.5, params)
    context = build_context(decoder, params, groups([3, 1, 4, 1, 5], [9, 2, 6], [11, 12]))
    return decoder, params, jax.tree.map(np.asarray, context)


def loss(scores):
    return np.mean([jax.nn.logsumexp(row) - row[label] for row, label in zip(scores, LABELS, strict=True)])


def test_j_is_the_cross_entropy_of_option_scores():
    decoder, params, context = made()
    problem, start, inputs = group_problem(decoder, params, context, ITEMS, LABELS)
    u = jnp.array([0.4, -0.7, 0.1])
    found = jax.jit(lambda u: pmp.objective(problem, start, u, inputs))(u)
    scores = option_log_probabilities(decoder, params, ITEMS, attached=attach(decoder, context, u))
    np.testing.assert_allclose(found, loss(scores), rtol=2e-5)


@pytest.mark.slow
def test_contributions_are_minus_the_gradient_of_a_whole_forward_pass(float64):
    decoder, params, context = made()
    problem, start, inputs = group_problem(decoder, params, context, ITEMS[:1], LABELS[:1])
    swept = jax.jit(lambda u: pmp.costate(problem, start, u, inputs, observe=observables.control_gradient).seen)

    def direct(u):
        attached, scores = attach(decoder, context, u), []
        for option in ITEMS[0].options:
            row = jnp.asarray([[*ITEMS[0].prompt, *option]])
            logits = apply(decoder, params, row, cache=empty_cache(CONFIG, 1, row.shape[1], attached))[0][0]
            at = jnp.arange(2, 2 + len(option))
            scores.append(jnp.mean(jax.nn.log_softmax(logits)[at, jnp.asarray(option)]))
        return jax.nn.logsumexp(jnp.stack(scores)) - scores[LABELS[0]]

    np.testing.assert_allclose(swept(jnp.zeros(3)), jax.jit(jax.grad(direct))(jnp.zeros(3)), rtol=0, atol=1e-12)


def test_what_is_learned_lowers_j():
    decoder, params, context = made()
    seen = []
    solution = fit_group_weights(
        decoder, params, context, ITEMS, LABELS, sweeps=6, callback=lambda now: seen.append(now.value)
    )
    attached = attach(decoder, context, solution.controls)
    np.testing.assert_allclose(
        loss(option_log_probabilities(decoder, params, ITEMS, attached=attached)), solution.value, rtol=2e-5
    )
    assert solution.value < seen[0] - 1e-3 and len(seen) == 6


def test_wrong_labels_are_named():
    decoder, params, context = made()
    with pytest.raises(ValueError, match="3 items and 1 labels"):
        group_problem(decoder, params, context, ITEMS, [0])
    with pytest.raises(ValueError, match="item 0 has the label 2, expected the number of one of its 2 options"):
        group_problem(decoder, params, context, ITEMS, [2, 0, 0])
