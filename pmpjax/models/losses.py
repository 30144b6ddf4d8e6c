"""Token losses of a decoder: padded rows, packed rows, cross-entropy in chunks, a loss for each example."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pmpjax.models.layers import apply, product

if TYPE_CHECKING:
    from pmpjax.models.decoder import Decoder

Parameters = Any
"""A pytree of arrays: what `flax.linen.Module.init` puts under "params"."""

_KEPT_LOGITS = 2**25  # 128 MB in float32


class Rows(NamedTuple):
    """Token sequences, padded to one length: the batch that every loss of this package's decoder takes.

    Fields:
        tokens: [N, L] integer ids. What follows a row's length is padding, of any id.
        lengths: [N] integers, tokens that are text. The tokens at 1..length-1 are predicted, each from those before it.
        segments: [N, L] integers, for rows in which several documents are packed: tokens see, and are predicted from,
            those with their own number alone. None: one document a row.
    """

    tokens: Any
    lengths: Any
    segments: Any = None


def cross_entropy(
    h: Float[Array, "m d"], output: Float[Array, "v d"], labels: Int[Array, " m"], chunk: int | None = None
) -> Float[Array, " m"]:
    """-log softmax(output h)_label for each of m hidden states, with the logits of `chunk` states at a time (0: all).

    A chunk's logits are computed again in the backward pass instead of being kept; the logits of all are kept. None
    takes all where these are no more than 2^25 (128 MB in float32), else 512 at a time. On two CPU cores a training
    step without chunks took 75 ms against 90 at a vocabulary of 2,048 and 2,048 tokens, 193 against 218 at 4,096 and
    4,096, 310 against 340 at 8,192 and 4,096 (several steps a call); larger chunks than 512 were no faster than it.
    """
    if chunk is None:
        chunk = 0 if h.shape[0] * output.shape[0] <= _KEPT_LOGITS else 512

    def normaliser(states: Array) -> Array:
        logits = product(states, output.T)
        return jax.nn.logsumexp(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)

    wide = jnp.promote_types(h.dtype, jnp.float32)
    label_logits = jnp.sum(h.astype(wide) * output[labels].astype(wide), axis=-1)
    if not chunk or h.shape[0] <= chunk:
        return normaliser(h) - label_logits
    padded = jnp.pad(h, ((0, -h.shape[0] % chunk), (0, 0)))
    # A chunk takes every so manyth state and not neighbours, so that on a mesh each device has its part of each chunk.
    chunks = padded.reshape(chunk, -1, h.shape[1]).swapaxes(0, 1)
    normalisers = jax.lax.map(jax.checkpoint(normaliser), chunks).T.reshape(-1)
    return normalisers[: h.shape[0]] - label_logits


def label_mask(rows: Rows) -> Float[Array, "n labels"]:
    """m[n, i] = 1 where position i predicts text: i + 1 < lengths[n], and token i + 1 is of the same document.

    >>> import numpy as np
    >>> label_mask(Rows(np.zeros((2, 4), int), np.array([3, 1]))).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    >>> label_mask(Rows(np.zeros((1, 4), int), np.array([4]), np.array([[1, 1, 2, 2]]))).tolist()
    [[1.0, 0.0, 1.0]]
    """
    positions = jnp.arange(1, rows.tokens.shape[1])
    mask = positions[None, :] < jnp.asarray(rows.lengths)[:, None]
    if rows.segments is not None:
        segments = jnp.asarray(rows.segments)
        mask = mask & (segments[:, 1:] == segments[:, :-1])
    return mask.astype(jnp.float32)


def example_losses(decoder: "Decoder"):
    """losses(params, rows) -> [N]: the mean loss over each row's labels, in nats a token; 0 for a row without one."""

    def losses(params: Parameters, rows: Rows) -> Float[Array, " n"]:
        token = apply(decoder, params, rows.tokens, rows.segments, method="token_losses")
        mask = label_mask(rows).astype(token.dtype)
        return jnp.sum(token * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)

    return losses


def mean_token_loss(decoder: "Decoder"):
    """loss(params, rows) -> (sum, count): the loss in nats added over the labels of all rows, and how many they are."""

    def loss(params: Parameters, rows: Rows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        token = apply(decoder, params, rows.tokens, rows.segments, method="token_losses")
        mask = label_mask(rows).astype(token.dtype)
        return jnp.sum(token * mask), jnp.sum(mask)

    return loss


def initialise(module: nn.Module, key: Array, *inputs: Any) -> Parameters:
    """The module's random parameters, as a plain pytree; of the inputs only shapes and dtypes matter."""
    return jax.jit(module.init)(key, *inputs)["params"]


def parameter_count(params: Parameters) -> int:
    """Numbers held by a pytree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
