"""The plants that benchmarks and cost tests share: a small decoder in plain JAX, unrolled over its layers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


class DecoderShape(NamedTuple):
    """Sizes of the decoder-like plant; the defaults are those of the core issue's cost targets."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = 512
    batch: int = 16
    length: int = 64


def init_decoder(shape: DecoderShape, key: Array) -> PyTree:
    """Parameters: embedding, layers (attention, feed-forward, norms), output."""

    def matrix(key: Array, rows: int, columns: int) -> Array:
        return jax.random.normal(key, (rows, columns)) / rows**0.5

    d = shape.width
    keys = jax.random.split(key, shape.layers + 2)

    def layer(key: Array) -> PyTree:
        k = jax.random.split(key, 4)
        return {
            "attention_norm": jnp.ones(d),
            "query_key_value": matrix(k[0], d, 3 * d),
            "attention_out": matrix(k[1], d, d),
            "feed_norm": jnp.ones(d),
            "feed_in": matrix(k[2], d, 4 * d),
            "feed_out": matrix(k[3], 4 * d, d),
        }

    return {
        "embedding": 0.1 * jax.random.normal(keys[0], (shape.vocabulary, d)),
        "layers": [layer(k) for k in keys[2:]],
        "norm": jnp.ones(d),
        "output": matrix(keys[1], d, shape.vocabulary),
    }


def decoder_losses(shape: DecoderShape, params: PyTree, tokens: Int[Array, "n length"]) -> Float[Array, " n"]:
    """Mean next-token cross-entropy of each row."""
    n, length = tokens.shape
    head = shape.width // shape.heads

    def norm(x: Array, scale: Array) -> Array:
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * scale[None]

    mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
    h = params["embedding"][tokens.reshape(-1)]
    for layer in params["layers"]:
        qkv = (norm(h, layer["attention_norm"]) @ layer["query_key_value"]).reshape(n, length, 3, shape.heads, head)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / head**0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n * length, shape.width)
        h = h + mixed @ layer["attention_out"]
        h = h + jax.nn.silu(norm(h, layer["feed_norm"]) @ layer["feed_in"]) @ layer["feed_out"]
    logits = (norm(h, params["norm"]) @ params["output"]).reshape(n, length, shape.vocabulary)[:, :-1]
    targets = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - targets, axis=-1)


def decoder_tokens(shape: DecoderShape, steps: int, key: Array) -> Int[Array, "steps n length"]:
    """Random tokens in place of text: cost does not depend on their values."""
    return jax.random.randint(key, (steps, shape.batch, shape.length), 0, shape.vocabulary)
