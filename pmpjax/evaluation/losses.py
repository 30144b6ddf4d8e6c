"""The loss on a whole set of rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pmpjax.models import Decoder, Rows, mean_token_loss


def set_loss(decoder: Decoder, rows: Rows, chunk: int = 64) -> Callable[[Any], Float[Array, ""]]:
    """loss(params): nats a token, averaged over all labels of all rows, `chunk` rows at a time."""
    pad = -len(rows.tokens) % chunk
    # Rows of length 0 fill the last chunk: they have no label, and so no weight in the mean.
    tokens = np.pad(np.asarray(rows.tokens), ((0, pad), (0, 0))).reshape(-1, chunk, np.shape(rows.tokens)[1])
    lengths = np.pad(np.asarray(rows.lengths), (0, pad)).reshape(-1, chunk)
    part = mean_token_loss(decoder)

    def loss(params: Any) -> Float[Array, ""]:
        sums, counts = jax.lax.map(lambda chunk_: part(params, chunk_), Rows(jnp.asarray(tokens), jnp.asarray(lengths)))
        return jnp.sum(sums) / jnp.maximum(jnp.sum(counts), 1)

    return loss


def spread_rows(rows: Rows, count: int) -> Rows:
    """At most `count` rows, evenly spaced over the set, so that every document is as likely to be met.

    >>> spread_rows(Rows(np.arange(10)[:, None], np.ones(10)), 4).tokens[:, 0].tolist()
    [0, 3, 6, 9]
    """
    chosen = np.unique(np.linspace(0, len(rows.tokens) - 1, min(count, len(rows.tokens))).round().astype(int))
    return Rows(np.asarray(rows.tokens)[chosen], np.asarray(rows.lengths)[chosen])
