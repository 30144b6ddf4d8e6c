"""The stage `score`: the regressor's prediction for every document of the corpus."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from pmpjax.data import Prepared
from pmpjax.runs import RunError, write_json
from pmpjax.runs.progress import Bar
from pmpjax.scoring.engine import ScoreConfig, computed_tokens, predictions
from pmpjax.scoring.shards import Shard, document_table, prepared_shards, read_shard, write_scores, write_shard
from pmpjax.train.model import ModelConfig, forward_flops

LISTED = 100
"""Documents without a finite score that score.json names; all are counted."""


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

    `targets` is the stage fit's targets.parquet, which `known_rows` "measured" needs.

    Files:
        scores.parquet: id, score, rows, tokens (`score_shard`); one line a document, in the corpus's order.
        score.json: documents, rows, how many of them were `measured`, FLOPs of the others with what padding costs;
            `not_finite`, how many documents have no finite score and the first ids of them; `recomputed`, the files of
            shards that were there and could not be trusted.
        shards: what is done so far; removed at the end.
    """
    decoder, kept = model.decoder(prepared.vocabulary), folder / "shards"
    if not (folder / "score.json").exists():  # written when all else is whole
        measured, known = _measured(config, len(prepared.source.tokens), targets)
        shards = prepared_shards(prepared, config.shard)
        missing = [shard for shard in shards if read_shard(kept, shard) is None]
        recomputed = [shard.name for shard in missing if (kept / shard.name).exists()]
        bar.update(len(prepared.source.tokens) - sum(len(shard.lengths) for shard in missing))
        sets = (rows for rows in (_unknown(shard, known) for shard in missing) if len(rows[1]))
        predicted = predictions(decoder, params, sets, config, bar.update, mesh)
        for shard in missing:
            scores, settled = measured[_own(shard)].copy(), known[_own(shard)]
            if not settled.all():
                scores[~settled] = next(predicted)
            bar.update(int(settled.sum()))
            write_shard(kept, shard, document_table(shard, scores))
        write_scores(folder / "scores.parquet", (_stored(kept, shard) for shard in shards))
        lengths = [_unknown(shard, known)[1] for shard in shards]
        computed = sum(computed_tokens(each, prepared.source.tokens.shape[1], config) for each in lengths)
        facts = {
            "documents": len(prepared.documents.ids),
            "rows": len(prepared.source.tokens),
            "measured": int(known.sum()),
            "flops": forward_flops(decoder, computed, output=False),
            "padding": 1 - sum(int(each.sum()) for each in lengths) / max(computed, 1),
            "not_finite": _not_finite(folder / "scores.parquet"),
            "recomputed": recomputed,
        }
        write_json(folder / "score.json", facts)
    shutil.rmtree(kept, ignore_errors=True)


def _measured(
    config: ScoreConfig, rows: int, targets: Path | None
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """The standardised score of each row that the sweep evaluated, and which rows these are; none unless asked for."""
    scores, known = np.zeros(rows, np.float32), np.zeros(rows, bool)
    if config.known_rows == "measured":
        if targets is None:
            raise ValueError("score: known_rows is 'measured'; give the stage fit's targets.parquet as `targets`")
        table = pq.read_table(targets)
        at = table["row"].to_numpy()
        scores[at], known[at] = table["target"].to_numpy(), True
    return scores, known


def _own(shard: Shard) -> slice:
    """The shard's rows among those of the corpus."""
    return slice(shard.first_row, shard.first_row + len(shard.lengths))


def _unknown(shard: Shard, known: Bool[np.ndarray, " all"]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and lengths of the shard's rows that the regressor predicts."""
    rows = ~known[_own(shard)]
    return shard.tokens[rows], shard.lengths[rows]


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
