"""The change of weights that a context implies in a softmax block: exact in float64, for every kind of block."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.contexts.low_rank import changed, context_change
from pmpjax.models import Decoder, DecoderConfig, initialise, recorded
from pmpjax.models.attention import HIDDEN
from pmpjax.models.decoder import Block, Seen

BASE = DecoderConfig(vocabulary=19, width=8, layers=2, heads=4, key_value_heads=2, hidden=12)
OPTIONS = {
    "llama": {},
    "gpt2": {"norm": "layer", "feed_forward": "gelu_tanh", "biases": True, "positions": "learned", "max_length": 16},
    "magneto with momentum": {"sub_norm": True, "positions": "xpos", "feed_forward": "gelu", "momentum": 0.4},
}
LENGTH, CONTEXT = 9, 6


def model(name):
    decoder = Decoder(dataclasses.replace(BASE, **OPTIONS[name]))
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    generator = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) * 0.6), params)
    tokens = jnp.asarray(generator.integers(0, 19, (2, LENGTH)))
    return decoder, params, tokens


def changes(config):
    return jax.jit(lambda params, h, context: context_change(config, params, h, context))


@pytest.mark.parametrize("name", OPTIONS)
def test_changed_weights_without_the_context_give_the_output_with_it(float64, name):
    decoder, params, _ = model(name)
    config, block = decoder.config, params["trunk"]["layers_1"]
    h = jnp.asarray(np.random.default_rng(5).normal(size=(2, LENGTH, 8)))
    positions = jnp.arange(LENGTH)[None]
    run = jax.jit(lambda p, weight: Block(config).apply({"params": p}, h, Seen(positions, None, weight), None)[0])
    expected, change_by = run(block, jnp.zeros((2, LENGTH))), changes(config)
    for part in (slice(0, CONTEXT), slice(2, 4)):  # the whole context, and one demonstration of it
        context = jnp.zeros((2, LENGTH), bool).at[:, part].set(True)
        change, without = change_by(block, h, context), jnp.where(context, HIDDEN, 0.0)
        plain = run(block, without)
        for row, token in ((0, CONTEXT), (1, LENGTH - 1)):
            new = changed(block, change, row, token)
            found = run(new, without)[row, token] + change.shift[row, token]
            np.testing.assert_allclose(found, expected[row, token], rtol=0, atol=1e-10)
            assert np.abs(plain[row, token] - expected[row, token]).max() > 1e-2
            delta = np.asarray(new["up"]["kernel"] - block["up"]["kernel"])
            assert np.linalg.matrix_rank(delta, tol=1e-10) == 1
        assert np.isnan(change.up[:, part]).all() and np.isfinite(change.up[:, CONTEXT:]).all()
        assert (change.gate is None) == (config.feed_forward != "swiglu")


def test_no_context_changes_nothing(float64):
    decoder, params, _ = model("llama")
    h = jnp.asarray(np.random.default_rng(6).normal(size=(1, 5, 8)))
    change = changes(decoder.config)(params["trunk"]["layers_0"], h, jnp.zeros((1, 5), bool))
    assert not np.any(change.up) and not np.any(change.shift)


def test_a_whole_decoder_reads_its_last_token_alone_with_changed_weights(float64):
    """Layer by layer: the query's token without any context, and what leaves each block is that of the whole prompt."""
    decoder, params, tokens = model("llama")
    config, last = decoder.config, LENGTH - 1
    seen = jax.jit(lambda p, x: recorded(decoder, p, x))(params, tokens)
    read, context = params["trunk"]["embedding"][tokens], jnp.ones((2, LENGTH), bool).at[:, last].set(False)
    alone = jax.jit(lambda p, h: Block(config).apply({"params": p}, h, Seen(jnp.array([[last]])), None)[0])
    h, change_by = read[:1, last:], changes(config)
    for layer in range(config.layers):
        block = params["trunk"][f"layers_{layer}"]
        change = change_by(block, read, context)
        h = alone(changed(block, change, 0, last), h) + change.shift[:1, last:]
        read = seen.blocks[layer]
        np.testing.assert_allclose(h[0, 0], read[0, last], rtol=0, atol=1e-10)
