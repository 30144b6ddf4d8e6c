"""The stage `score`: the scorer's word on every document of the corpus."""

import collections
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh
from jaxtyping import Array, Float

from pmpjax.data import Prepared
from pmpjax.models import DecoderConfig, ScorerModel
from pmpjax.models.layers import apply
from pmpjax.runs import RunError, write_json
from pmpjax.runs.progress import Bar
from pmpjax.scoring.shards import Shard, document_table, read_shard, shard_documents, write_scores, write_shard
from pmpjax.train.mesh import check_mesh, laid_out, place, place_batch
from pmpjax.train.model import ModelConfig, forward_flops

AHEAD = 4
"""Batches that the device is given before the host waits for the oldest of them."""

LISTED = 100
"""Documents without a finite score that score.json names; all are counted."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How the corpus is scored.

    Attributes:
        batch: rows scored at once.
        shard: rows whose scores are written at once; a killed run goes on after the last whole shard.
        buckets: lengths that batches are cut to, one compilation each; more of them compute less padding.
        worth: what a row that the sweep evaluated counts with: the worth "measured", standardised as the scorer's
            targets are, or what the scorer predicts for it as for any other. A scorer averages noise out and levels
            what it cannot see: AdamW's worths choose better without it, SGD's as well with it
            (`experiments/pds_compare.md`).
    """

    batch: int = 64
    shard: int = 4096
    buckets: int = 4
    worth: Literal["predicted", "measured"] = "measured"

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
    """Rows by falling length in batches of `config.batch`; only the last, of the shortest rows, may have fewer.

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

    The score of a document is the mean over its rows of the predicted standardised worth, weighted by their tokens.
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
    return next(_predictions(decoder, params, [(tokens, lengths)], config, mesh=mesh))


def _predictions(
    decoder: DecoderConfig,
    params: Any,
    sets: Iterable[tuple[np.ndarray, np.ndarray]],
    config: ScoreConfig,
    scored: Callable[[int], None] = lambda rows: None,
    mesh: Mesh | None = None,
) -> Iterator[np.ndarray]:
    """m of each set's rows, one set after the other; the device has the next batches while a set is taken care of."""
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

    def predictions(params: Any, tokens: Array, lengths: Array) -> Array:
        with laid_out(mesh):
            return apply(scorer, params, tokens, lengths)

    return jax.jit(predictions)


def prepared_shards(prepared: Prepared, size: int) -> list[Shard]:
    """The source in shards of at most `size` rows; views, no copies."""
    table = prepared.documents
    shards = []
    for part in shard_documents(table.n_rows, size):
        first, last = int(table.first_row[part.start]), part.stop - 1
        rows = slice(first, int(table.first_row[last] + table.n_rows[last]))
        document = prepared.source_document[rows] - part.start
        tokens, lengths = prepared.source.tokens[rows], prepared.source.lengths[rows]
        shards.append(Shard(tokens, lengths, document, table.ids[part], first))
    return shards


def build_score(
    config: ScoreConfig,
    model: ModelConfig,
    prepared: Prepared,
    params: Any,
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
    targets: Path | None = None,
) -> None:
    """Scores every document of the source, shard by shard, and goes on after a kill with the shards that are not whole.

    `targets` is the stage fit's targets.parquet, which the worth "measured" needs.

    Files:
        scores.parquet: id, score, rows, tokens (`score_shard`); one line a document, in the corpus's order.
        score.json: documents, rows, how many of them were `measured`, FLOPs of the others with what padding costs;
            `not_finite`, how many documents have no finite score and the first ids of them; `recomputed`, the files of
            shards that were there and could not be trusted.
        shards: what is done so far; removed at the end.
    """
    decoder, kept = model.decoder(prepared.vocabulary), folder / "shards"
    if not (folder / "score.json").exists():  # written when all else is whole
        measured = _measured(config, len(prepared.source.tokens), targets)
        shards = prepared_shards(prepared, config.shard)
        missing = [shard for shard in shards if read_shard(kept, shard) is None]
        recomputed = [shard.name for shard in missing if (kept / shard.name).exists()]
        bar.update(len(prepared.source.tokens) - sum(len(shard.lengths) for shard in missing))
        sets = (rows for rows in (_asked(shard, measured) for shard in missing) if len(rows[1]))
        predictions = _predictions(decoder, params, sets, config, bar.update, mesh)
        for shard in missing:
            scores = _known(shard, measured).copy()
            asked = np.isnan(scores)
            if asked.any():
                scores[asked] = next(predictions)
            bar.update(int((~asked).sum()))
            write_shard(kept, shard, document_table(shard, scores))
        write_scores(folder / "scores.parquet", (_stored(kept, shard) for shard in shards))
        lengths = [_asked(shard, measured)[1] for shard in shards]
        computed = sum(computed_tokens(each, prepared.source.tokens.shape[1], config) for each in lengths)
        facts = {
            "documents": len(prepared.documents.ids),
            "rows": len(prepared.source.tokens),
            "measured": int(np.isfinite(measured).sum()),
            "flops": forward_flops(decoder, computed, output=False),
            "padding": 1 - sum(int(each.sum()) for each in lengths) / max(computed, 1),
            "not_finite": _not_finite(folder / "scores.parquet"),
            "recomputed": recomputed,
        }
        write_json(folder / "score.json", facts)
    shutil.rmtree(kept, ignore_errors=True)


def _measured(config: ScoreConfig, rows: int, targets: Path | None) -> Float[np.ndarray, " rows"]:
    """What the sweep measured of each row, standardised; NaN where it did not or the config does not ask."""
    found = np.full(rows, np.nan, np.float32)
    if config.worth == "measured":
        if targets is None:
            raise ValueError("score: worth is 'measured'; give the stage fit's targets.parquet as `targets`")
        table = pq.read_table(targets)
        found[table["row"].to_numpy()] = table["target"].to_numpy()
    return found


def _known(shard: Shard, measured: Float[np.ndarray, " all"]) -> Float[np.ndarray, " rows"]:
    """What is measured of the shard's rows, NaN elsewhere."""
    return measured[shard.first_row : shard.first_row + len(shard.lengths)]


def _asked(shard: Shard, measured: Float[np.ndarray, " all"]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and lengths of the shard's rows that only the scorer can speak for."""
    rows = np.isnan(_known(shard, measured))
    return shard.tokens[rows], shard.lengths[rows]


def computed_tokens(lengths: np.ndarray, longest: int, config: ScoreConfig) -> int:
    """Tokens that the device computes for rows of these lengths, padding and the last batch's empty rows among them."""
    return sum(config.batch * batch.length for batch in length_batches(lengths, longest, config))


def _stored(kept: Path, shard: Shard) -> pa.Table:
    table = read_shard(kept, shard)
    if table is None:
        raise RunError(f"{kept / shard.name} cannot be read back; see to the disk and run the stage again")
    return table


def _not_finite(path: Path) -> dict[str, Any]:
    count, first = 0, []
    for batch in pq.ParquetFile(path).iter_batches(columns=["id", "score"]):
        bad = np.flatnonzero(~np.isfinite(batch["score"].to_numpy()))
        count += len(bad)
        first += batch["id"].take(pa.array(bad[: LISTED - len(first)])).to_pylist()
    return {"documents": count, "first": first}


@dataclasses.dataclass(frozen=True)
class StoredScores:
    """A Parquet of id and score, one line a document in the corpus's order, as a method of selection, whatever the key.

    Attributes:
        path: the file, as this stage and `rivals` write it.
    """

    path: Path

    def __call__(self, prepared: Prepared, key: Array) -> Array:
        self.check(prepared)
        return jax.numpy.asarray(np.concatenate(list(self.parts())))

    def parts(self) -> Iterator[Float[np.ndarray, " documents"]]:
        """The scores, some tens of thousands at a time."""
        return (part.to_numpy() for part in self._column("score"))

    def check(self, prepared: Prepared) -> None:
        """ValueError where the file's ids are not those of the prepared documents, or it cannot be read."""
        ids, first, same = prepared.documents.ids, 0, True
        for part in self._column("id"):
            same = same and part.to_pylist() == ids[first : first + len(part)].tolist()
            first += len(part)
        if not same or first != len(ids):
            raise ValueError(
                f"{self.path} scores other documents than the prepared ones; delete its folder to score again"
            )

    def _column(self, name: str) -> Iterator[pa.Array]:
        try:
            file = pq.ParquetFile(self.path, page_checksum_verification=True)
            yield from (batch[name] for batch in file.iter_batches(columns=[name]))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{self.path} cannot be read ({error}); delete its folder to score again") from error
