"""The decoder against what defines it: causality, masks, rotary positions, plain cross-entropy, second derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import Rows
from pmpjax.models import (
    Decoder,
    DecoderConfig,
    ScorerModel,
    Trunk,
    example_losses,
    initialise,
    mean_token_loss,
    parameter_count,
    with_trunk,
)
from pmpjax.models.attention import Visible, attend
from pmpjax.models.positions import rotate
from pmpjax.runs.precision import double_precision

CONFIG = DecoderConfig(vocabulary=31, width=16, layers=1, heads=4, key_value_heads=2, hidden=24, loss_chunk=0)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@functools.cache
def decoder_and_params(config=CONFIG, dtype=jnp.float32):
    decoder = Decoder(config)
    return decoder, cast(initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)), dtype)


def rows(n=3, length=9, seed=1):
    tokens = jax.random.randint(jax.random.key(seed), (n, length), 0, CONFIG.vocabulary)
    return Rows(tokens, jnp.array([length, 5, 2][:n]))


def test_no_logit_depends_on_a_later_input_and_each_depends_on_all_earlier_ones():
    decoder, params = decoder_and_params(dataclasses.replace(CONFIG, layers=2))
    inputs = jax.random.normal(jax.random.key(2), (1, 6, CONFIG.width))
    jacobian = jax.jit(jax.jacrev(lambda x: decoder.apply({"params": params}, x)[0].sum(axis=-1)))(inputs)[:, 0]
    reach = np.abs(np.asarray(jacobian)).max(axis=-1)
    assert (reach[np.triu_indices(6, 1)] == 0).all()
    assert (reach[np.tril_indices(6)] > 0).all()


def test_the_loss_of_an_example_is_the_mean_over_its_labels_of_plain_cross_entropy():
    decoder, params = decoder_and_params()
    batch = rows()
    logits = np.asarray(jax.jit(decoder.apply)({"params": params}, batch.tokens), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    tokens = np.asarray(batch.tokens)
    expected = [
        -np.mean([log_p[n, i, tokens[n, i + 1]] for i in range(length - 1)])
        for n, length in enumerate(np.asarray(batch.lengths))
    ]
    np.testing.assert_allclose(jax.jit(example_losses(decoder))(params, batch), expected, rtol=2e-6)
    total, count = jax.jit(mean_token_loss(decoder))(params, batch)
    assert count == 8 + 4 + 1
    np.testing.assert_allclose(total, np.dot(expected, [8, 4, 1]), rtol=2e-6)


def test_padding_changes_no_loss_and_no_gradient():
    decoder, params = decoder_and_params()
    batch = rows()
    padding = jnp.arange(batch.tokens.shape[1])[None, :] >= batch.lengths[:, None]
    other = Rows(jnp.pad(jnp.where(padding, 7, batch.tokens), ((0, 0), (0, 3))), batch.lengths)
    losses = jax.jit(example_losses(decoder))
    np.testing.assert_allclose(losses(params, other), losses(params, batch), rtol=1e-6)
    first, second = (jax.jit(jax.grad(lambda p, b: losses(p, b).sum()))(params, b) for b in (batch, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), first, second)


def test_a_row_without_a_label_has_loss_zero_and_no_gradient():
    decoder, params = decoder_and_params()
    batch = Rows(rows().tokens[:1], jnp.array([1]))
    value, gradient = jax.jit(jax.value_and_grad(lambda p: example_losses(decoder)(p, batch).sum()))(params)
    assert value == 0
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_rotary_products_depend_on_the_distance_alone():
    key = jax.random.normal(jax.random.key(3), (1, 1, 1, 8))
    query = jax.random.normal(jax.random.key(4), (1, 1, 1, 8))

    def inner(p, s):
        return float(jnp.vdot(rotate(query, jnp.array([[p]]), 100.0), rotate(key, jnp.array([[s]]), 100.0)))

    np.testing.assert_allclose(inner(9, 4), inner(5, 0), rtol=1e-5)
    assert abs(inner(9, 4) - inner(9, 3)) > 1e-3
    np.testing.assert_allclose(inner(0, 0), float(jnp.vdot(query, key)), rtol=1e-6)


def test_attention_equals_that_of_jax_with_key_weights():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    log_weight = jax.random.normal(jax.random.key(9), (2, 5))
    expected = jax.nn.dot_product_attention(q, k, v, bias=log_weight[:, None, None, :], is_causal=True)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v, Visible(key_log_weight=log_weight)), expected, atol=2e-6)
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v), expected, atol=2e-6)


def test_a_key_of_weight_zero_is_as_if_absent():
    decoder, params = decoder_and_params()
    inputs = jax.random.normal(jax.random.key(2), (2, 6, CONFIG.width))
    log_weight = jnp.zeros((1, 6)).at[0, 2].set(-1e9)
    apply = jax.jit(decoder.apply)
    logits = apply({"params": params}, inputs, jnp.repeat(log_weight, 2, axis=0))
    changed = apply({"params": params}, inputs.at[:, 2].add(1.0), jnp.repeat(log_weight, 2, axis=0))
    np.testing.assert_allclose(logits[:, [0, 1, 3, 4, 5]], changed[:, [0, 1, 3, 4, 5]], atol=1e-6)


def test_the_jvp_of_the_gradient_is_its_finite_difference():
    config = DecoderConfig(31, 8, 1, 2, 1, 12, loss_chunk=8)
    with double_precision():
        decoder, params = decoder_and_params(config, jnp.float64)
        batch = rows()
        gradient = jax.jit(jax.grad(lambda p: example_losses(decoder)(p, batch).sum()))
        params, generator = jax.tree.map(np.asarray, params), np.random.default_rng(5)
        direction = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), params)
        _, tangent = jax.jit(lambda p, d: jax.jvp(gradient, (p,), (d,)))(params, direction)
        step = 1e-5
        moved = [jax.tree.map(lambda p, d, s=s: p + s * d, params, direction) for s in (step, -step)]
        difference = jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * step), *map(gradient, moved))
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(tangent))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7 * scale), tangent, difference)


def test_free_embeddings_add_one_matrix():
    tied, free = (decoder_and_params(DecoderConfig(31, 16, 1, 2, 1, 24, tied_embeddings=t))[1] for t in (True, False))
    assert parameter_count(free) - parameter_count(tied) == 31 * 16
    decoder = Decoder(DecoderConfig(31, 16, 1, 2, 1, 24, tied_embeddings=False))
    batch = rows()
    logits = np.asarray(jax.jit(decoder.apply)({"params": free}, batch.tokens))
    hidden = jax.jit(Trunk(decoder.config).apply)({"params": free["trunk"]}, batch.tokens)
    np.testing.assert_allclose(logits, np.asarray(hidden) @ np.asarray(free["output"]).T, atol=1e-5)


@pytest.mark.parametrize(
    "sizes", [{"width": 18, "heads": 4}, {"width": 12, "heads": 4}, {"heads": 4, "key_value_heads": 3}]
)
def test_sizes_that_do_not_fit_are_refused_with_their_names(sizes):
    with pytest.raises(ValueError, match="heads"):
        DecoderConfig(vocabulary=31, **sizes)


def test_the_scorer_pools_the_text_alone_and_starts_from_a_decoders_trunk():
    _, params = decoder_and_params()
    batch = rows()
    model = ScorerModel(CONFIG)
    scorer_params = with_trunk(initialise(model, jax.random.key(1), batch.tokens, batch.lengths), params)
    weight = jax.random.normal(jax.random.key(2), (CONFIG.width, 1))
    scorer_params = {**scorer_params, "weight": weight, "bias": jnp.array(0.5)}
    hidden = np.asarray(jax.jit(Trunk(CONFIG).apply)({"params": params["trunk"]}, batch.tokens))
    lengths = np.asarray(batch.lengths)
    expected = [hidden[n, : lengths[n]].mean(axis=0) @ np.asarray(weight)[:, 0] + 0.5 for n in range(3)]
    np.testing.assert_allclose(
        jax.jit(model.apply)({"params": scorer_params}, batch.tokens, batch.lengths), expected, rtol=1e-5
    )
