"""The stage `score`: the scorer's word on every document of the corpus."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array

from pmpjax.baselines import Scorer
from pmpjax.data import Prepared
from pmpjax.models import DecoderConfig, ScorerModel
from pmpjax.runs import atomic, read_arrays, write_arrays, write_json
from pmpjax.runs.progress import Bar
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How the corpus is scored.

    Attributes:
        batch: rows scored at once.
        shard: rows whose scores are written at once; a killed run goes on after the last whole shard.
    """

    batch: int = 64
    shard: int = 4096


def build_score(
    config: ScoreConfig, model: ModelConfig, prepared: Prepared, params: Any, folder: Path, bar: Bar
) -> None:
    """Fills `folder` with scores.parquet (id, score, rows, tokens; one line a document, in the corpus's order).

    The score of a document is the mean over its rows of the predicted standardised worth, weighted by their tokens.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    count = len(prepared.source_rows)
    parts = []
    for first in range(0, count, config.shard):
        path = folder / f"rows-{first:09d}.npz"
        part = slice(first, min(first + config.shard, count))
        if not path.exists():
            scores = predict(
                decoder_config, params, prepared.source_rows[part], prepared.source_lengths[part], config.batch
            )
            write_arrays(path, {"score": scores})
        parts.append(read_arrays(path)["score"])
        bar.update(part.stop - part.start)
    scores = document_scores(prepared, np.concatenate(parts))
    table = pa.table(
        {
            "id": list(prepared.documents.ids),
            "score": scores,
            "rows": prepared.documents.n_rows,
            "tokens": prepared.documents.n_tokens,
        }
    )
    with atomic(folder / "scores.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    flops = forward_flops(decoder_config, prepared.source_rows.size, output=False)
    write_json(folder / "score.json", {"documents": len(scores), "rows": count, "flops": flops})


def predict(config: DecoderConfig, params: Any, tokens: np.ndarray, lengths: np.ndarray, batch: int = 64) -> np.ndarray:
    """m(row) for many rows, in batches of one shape: [R] float32."""
    # Batches sorted by length and cut to it would save the padding, 13% of the default corpus, for more compilations.
    apply = _apply(config)
    pad = -len(tokens) % batch
    padded_tokens, padded_lengths = np.pad(tokens, ((0, pad), (0, 0))), np.pad(lengths, (0, pad))
    parts = [
        np.asarray(apply(params, padded_tokens[first : first + batch], padded_lengths[first : first + batch]))
        for first in range(0, len(padded_tokens), batch)
    ]
    return np.concatenate(parts)[: len(tokens)]


@functools.lru_cache(maxsize=4)
def _apply(config: DecoderConfig) -> Callable[..., Any]:
    scorer = ScorerModel(config)
    return jax.jit(lambda params, tokens, lengths: scorer.apply({"params": params}, tokens, lengths))


def document_scores(prepared: Prepared, row_scores: np.ndarray) -> np.ndarray:
    """The mean of a document's row scores weighted by the rows' tokens: [D] float64."""
    documents = len(prepared.documents.ids)
    weight = prepared.source_lengths.astype(np.float64)
    total = np.bincount(prepared.source_document, row_scores.astype(np.float64) * weight, minlength=documents)
    return total / np.bincount(prepared.source_document, weight, minlength=documents)


def stored_scorer(path: Path) -> Scorer:
    """A Parquet of id and score, as this stage and `rivals` write it, as a method of selection, whatever the key."""

    def stored(prepared: Prepared, key: Array) -> Array:
        table = pq.read_table(path, columns=["id", "score"])
        if table["id"].to_pylist() != list(prepared.documents.ids):
            raise ValueError(f"{path} scores other documents than the prepared ones; delete its folder to score again")
        return jax.numpy.asarray(table["score"].to_numpy())

    return stored
