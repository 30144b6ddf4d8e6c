"""The mean loss of a whole set of rows, in chunks of one shape, on one device or a mesh; differentiable."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pmpjax.data import Rows
from pmpjax.models import Decoder, mean_token_loss
from pmpjax.train.mesh import BATCH_AXES, batch_shards, laid_out

Tree = TypeVar("Tree")
Terms = Callable[[Any, Any], tuple[Array, Array]]
"""(params, some rows) -> (sum of their losses, how many losses that is); a row of length 0 counts for nothing."""


def in_chunks(rows: Tree, chunk: int) -> Tree:
    """Leaves [C, chunk, ...]; the last chunk is filled with zeros: rows of length 0, which have no label.

    >>> in_chunks(Rows(np.ones((3, 4), int), np.array([4, 2, 3])), 2).lengths.tolist()
    [[4, 2], [3, 0]]
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; at least one row is evaluated at a time")

    def cut(leaf: Any) -> Any:
        pad = [(0, -len(leaf) % chunk)] + [(0, 0)] * (np.ndim(leaf) - 1)
        # What lies in memory as numpy's stays there: it may be a whole corpus.
        padded = jnp.pad(leaf, pad) if isinstance(leaf, jax.Array) else np.pad(np.asarray(leaf), pad)
        return padded.reshape(-1, chunk, *padded.shape[1:])

    return jax.tree.map(cut, rows)


def mean_loss(terms: Terms, rows: Any, chunk: int = 64, mesh: Mesh | None = None) -> Callable[[Any], Float[Array, ""]]:
    """params -> sum_c s_c / sum_c n_c with (s_c, n_c) = terms(params, chunk c): the mean over a set, chunk by chunk.

    Its derivatives, reverse or forward and of any order, are those of the mean over the whole set. What lies between
    parameters and loss is in memory for one chunk at a time: the reverse pass computes it again.

    Args:
        terms: `pmpjax.models.mean_token_loss(decoder)` weighs every label alike, `row_terms(losses)` every row.
        rows: pytree with a leading axis, whose `lengths` are what makes a row count.
        chunk: rows at once. With a mesh it is raised to a multiple of data x fsdp, and cut along these axes.

    Example:
        >>> rows = Rows(np.zeros((3, 1), int), np.array([1, 2, 3]))
        >>> loss = mean_loss(row_terms(lambda scale, part: scale * part.lengths), rows, chunk=2)
        >>> float(loss(2.0)), float(jax.grad(loss)(2.0))
        (4.0, 2.0)
    """
    if mesh is not None:
        chunk = -(-chunk // batch_shards(mesh)) * batch_shards(mesh)

    def loss(params: Any) -> Float[Array, ""]:
        @jax.checkpoint
        def one(part: Any) -> tuple[Array, Array]:
            if mesh is not None:
                part = jax.lax.with_sharding_constraint(part, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
            with laid_out(mesh):
                return terms(params, part)

        sums, counts = jax.lax.map(one, jax.tree.map(jnp.asarray, in_chunks(rows, chunk)))
        return jnp.sum(sums) / jnp.maximum(jnp.sum(counts), 1)

    return loss


def row_terms(losses: Callable[[Any, Any], Array]) -> Terms:
    """The terms of (1 / R) sum_r l_r, from `losses`: (params, rows) -> one loss a row, 0 for a row of length 0."""
    return lambda params, rows: (jnp.sum(losses(params, rows)), jnp.sum(rows.lengths > 0))


def set_loss(
    decoder: Decoder, rows: Rows, chunk: int = 64, mesh: Mesh | None = None
) -> Callable[[Any], Float[Array, ""]]:
    """loss(params): nats per token, averaged over all labels of all rows (`mean_loss`)."""
    return mean_loss(mean_token_loss(decoder), rows, chunk, mesh)


def spread_rows(rows: Rows, count: int) -> Rows:
    """At most `count` rows, evenly spaced over the set, so that every document is as likely to be met.

    >>> spread_rows(Rows(np.arange(10)[:, None], np.ones(10)), 4).tokens[:, 0].tolist()
    [0, 3, 6, 9]
    """
    chosen = np.unique(np.linspace(0, len(rows.tokens) - 1, min(count, len(rows.tokens))).round().astype(int))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], rows)
