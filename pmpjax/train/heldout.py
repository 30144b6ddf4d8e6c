"""The loss on a whole held-out set of rows, on one device or a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pmpjax.data import Rows
from pmpjax.models import Decoder, mean_token_loss
from pmpjax.train.mesh import BATCH_AXES, batch_shards, laid_out


def set_loss(
    decoder: Decoder, rows: Rows, chunk: int = 64, mesh: Mesh | None = None
) -> Callable[[Any], Float[Array, ""]]:
    """loss(params): nats a token, averaged over all labels of all rows, `chunk` rows at a time.

    With a mesh a chunk is raised to a multiple of data x fsdp and cut along these axes.
    """
    if mesh is not None:
        chunk = -(-chunk // batch_shards(mesh)) * batch_shards(mesh)
    pad = -len(rows.tokens) % chunk
    # Rows of length 0 fill the last chunk: they have no label, and so no weight in the mean.
    chunks = jax.tree.map(
        lambda leaf: np.pad(np.asarray(leaf), ((0, pad),) + ((0, 0),) * (np.ndim(leaf) - 1)).reshape(
            -1, chunk, *np.shape(leaf)[1:]
        ),
        rows,
    )
    part = mean_token_loss(decoder)

    def loss_of(params: Any, chunk_: Rows) -> tuple[Array, Array]:
        if mesh is not None:
            chunk_ = jax.lax.with_sharding_constraint(chunk_, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
        with laid_out(mesh):
            return part(params, chunk_)

    def loss(params: Any) -> Float[Array, ""]:
        sums, counts = jax.lax.map(lambda chunk_: loss_of(params, chunk_), jax.tree.map(jnp.asarray, chunks))
        return jnp.sum(sums) / jnp.maximum(jnp.sum(counts), 1)

    return loss


def spread_rows(rows: Rows, count: int) -> Rows:
    """At most `count` rows, evenly spaced over the set, so that every document is as likely to be met.

    >>> spread_rows(Rows(np.arange(10)[:, None], np.ones(10)), 4).tokens[:, 0].tolist()
    [0, 3, 6, 9]
    """
    chosen = np.unique(np.linspace(0, len(rows.tokens) - 1, min(count, len(rows.tokens))).round().astype(int))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], rows)
