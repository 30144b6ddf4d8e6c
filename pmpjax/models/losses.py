"""Losses of a decoder: which tokens of a row are predicted, a loss for each example, and sums over labels."""

import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pmpjax.models.decoder import Decoder
from pmpjax.models.layers import apply

Parameters = Any
"""A pytree of arrays: what `flax.linen.Module.init` puts under "params"."""


@runtime_checkable
class TokenRows(Protocol):
    """What losses read of a batch; `pmpjax.data.Rows` is one, and defines the fields."""

    @property
    def tokens(self) -> Any:
        """[N, L] integer ids."""

    @property
    def lengths(self) -> Any:
        """[N] tokens of each row that are text."""

    @property
    def segments(self) -> Any:
        """[N, L] numbers of packed documents, or None."""


def label_mask(rows: TokenRows) -> Float[Array, "n labels"]:
    """m[n, i] = 1 where position i predicts text: i + 1 < lengths[n], and token i + 1 is of the same document.

    >>> import numpy as np
    >>> from pmpjax.data import Rows
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


def example_losses(decoder: Decoder):
    """losses(params, rows) -> [N]: the mean loss over each row's labels, in nats per token; 0 for a row without one."""

    def losses(params: Parameters, rows: TokenRows) -> Float[Array, " n"]:
        token = apply(decoder, params, rows.tokens, rows.segments, method="token_losses")
        mask = label_mask(rows).astype(token.dtype)
        return jnp.sum(token * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)

    return losses


def mean_token_loss(decoder: Decoder):
    """loss(params, rows) -> (sum, count): the loss in nats added over the labels of all rows, and how many they are."""

    def loss(params: Parameters, rows: TokenRows) -> tuple[Float[Array, ""], Float[Array, ""]]:
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
