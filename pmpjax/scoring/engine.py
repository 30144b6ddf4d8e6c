"""The regressor mapped over rows: batches by length, the device kept busy, shard by shard."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import Array, Float

from pmpjax.models import DecoderConfig, ScorerModel
from pmpjax.models.layers import apply
from pmpjax.scoring.shards import Shard, document_table
from pmpjax.train.mesh import check_mesh, laid_out, place, place_batch

AHEAD = 4
"""Batches that the device is given before the host waits for the oldest of them."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How a corpus is scored.

    Attributes:
        batch: rows scored at once.
        shard: rows whose scores are written at once; a killed run goes on after the last whole shard.
        buckets: lengths that batches are cut to, one compilation each; more of them compute less padding.
        known_rows: what a row that the sweep evaluated counts with: its own score ("measured"), standardised as the
            regressor's targets are, or the regressor's prediction ("predicted"), as any other row. The regressor
            averages noise out and levels what it cannot see: AdamW's scores choose better without it, SGD's as well
            with it (`experiments/pds_compare.md`).
    """

    batch: int = 64
    shard: int = 4096
    buckets: int = 4
    known_rows: Literal["predicted", "measured"] = "measured"

    def __post_init__(self):
        if min(self.batch, self.shard, self.buckets) < 1:
            raise ValueError(
                f"score: batch {self.batch}, shard {self.shard} and buckets {self.buckets} must be at least 1"
            )


class Batch(NamedTuple):
    """Rows that are scored at once, cut to their first `length` tokens."""

    rows: np.ndarray
    length: int


def length_batches(lengths: np.ndarray, longest: int, config: ScoreConfig) -> list[Batch]:
    """Rows by decreasing length in batches of `config.batch`; only the last, of the shortest rows, may have fewer.

    A batch is as long as the shortest multiple of longest / buckets that holds its first row.

    >>> length_batches(np.array([3, 8, 5, 1]), 8, ScoreConfig(batch=2, buckets=4))
    [Batch(rows=array([1, 2]), length=8), Batch(rows=array([0, 3]), length=4)]
    """
    steps = np.arange(1, config.buckets + 1)
    cuts = np.unique(-(-longest * steps // config.buckets))
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    parts = [order[first : first + config.batch] for first in range(0, len(order), config.batch)]
    return [Batch(part, int(cuts[np.searchsorted(cuts, lengths[part[0]])])) for part in parts]


def score_shard(decoder: DecoderConfig, params: Any, shard: Shard, config: ScoreConfig = ScoreConfig()) -> pa.Table:
    """A shard's documents as a table of id, score, rows, tokens: what any engine maps over the shards of a corpus.

    s_d = sum_r m(r) n_r / sum_r n_r over the rows r of document d, with n_r their tokens.
    """
    return document_table(shard, predict(decoder, params, shard.tokens, shard.lengths, config))


def predict(
    decoder: DecoderConfig,
    params: Any,
    tokens: np.ndarray,
    lengths: np.ndarray,
    config: ScoreConfig = ScoreConfig(),
    mesh: Mesh | None = None,
) -> Float[np.ndarray, " rows"]:
    """m(row) of each of [R, L] rows with [R] real tokens, in batches by length (`length_batches`): float32.

    With a mesh each batch is cut along its data and fsdp axes; ValueError where they do not divide `config.batch`.
    """
    return next(predictions(decoder, params, [(tokens, lengths)], config, mesh=mesh))


def predictions(
    decoder: DecoderConfig,
    params: Any,
    sets: Iterable[tuple[np.ndarray, np.ndarray]],
    config: ScoreConfig,
    scored: Callable[[int], None] = lambda rows: None,
    mesh: Mesh | None = None,
) -> Iterator[np.ndarray]:
    """m of the rows of each of `sets` of (tokens, lengths), one set after the other.

    The device computes the next batches while the caller works on a set. `scored` is told of rows that are done.
    """
    if mesh is not None:
        check_mesh(mesh, decoder, config.batch)
    score, params = score_function(decoder, mesh), place(params, mesh)

    def given() -> Iterator[tuple[np.ndarray, np.ndarray, Array, bool]]:
        for tokens, lengths in sets:
            found = np.empty(len(lengths), np.float32)
            batches = length_batches(lengths, tokens.shape[1], config)
            for number, (rows, length) in enumerate(batches, 1):
                missing = config.batch - len(rows)
                part = np.pad(tokens[rows, :length], ((0, missing), (0, 0)))
                scores = score(params, *place_batch((part, np.pad(lengths[rows], (0, missing))), mesh))
                yield found, rows, scores, number == len(batches)

    for found, rows, scores, last in _ahead(given(), AHEAD):
        found[rows] = np.asarray(scores)[: len(rows)]
        scored(len(rows))
        if last:
            yield found


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, each one handed on when `count` more have been asked for."""
    waiting: collections.deque[T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


@functools.lru_cache(maxsize=4)
def score_function(decoder: DecoderConfig, mesh: Mesh | None = None) -> Callable[..., Any]:
    """The jitted scorer, the same one for the same arguments: (params, tokens [N, L], lengths [N]) -> scores [N]."""
    scorer = ScorerModel(decoder)

    def scores(params: Any, tokens: Array, lengths: Array) -> Array:
        with laid_out(mesh):
            return apply(scorer, params, tokens, lengths)

    return jax.jit(scores)


def computed_tokens(lengths: np.ndarray, longest: int, config: ScoreConfig) -> int:
    """Tokens that the device computes for rows of these lengths, padding and the last batch's empty rows among them."""
    return sum(config.batch * batch.length for batch in length_batches(lengths, longest, config))
