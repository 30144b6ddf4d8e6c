"""The stage `select`: which documents are trained on."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array

from pmpjax.baselines import Scorer
from pmpjax.data import Prepared
from pmpjax.pds.common import stage_key
from pmpjax.runs import atomic, write_json, write_text
from pmpjax.runs.progress import Bar


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """How much is kept, and how random the choice is.

    Attributes:
        ratio: share of the source's tokens.
        temperature: tau of the Gumbel noise on standardised scores; 0 keeps the highest.
    """

    ratio: float = 0.4
    temperature: float = 0.1

    def __post_init__(self):
        if not 0 < self.ratio <= 1 or self.temperature < 0:
            raise ValueError(
                f"select: ratio {self.ratio} must lie in (0, 1] and temperature {self.temperature} not be negative"
            )


def gumbel_order(scores: np.ndarray, temperature: float, key: Array) -> np.ndarray:
    """Documents by z + tau g, highest first, with z the standardised scores and g ~ Gumbel(0, 1): [D] indices.

    The first r of them are r draws without replacement with odds proportional to exp(z / tau).

    Raises:
        ValueError: for a score that is not finite.

    Source: PDS (arXiv 2410.07064), section 2.3, the Gumbel top-r selection.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(f"{len(bad)} scores are not finite, the first of document {int(bad[0])}; lower the step")
    standard = (scores - scores.mean()) / (scores.std() or 1.0)
    noise = np.asarray(jax.random.gumbel(key, scores.shape), np.float64)
    return np.argsort(-(standard + temperature * noise), kind="stable")


def within_budget(order: np.ndarray, tokens: np.ndarray, budget: int | float) -> np.ndarray:
    """The longest prefix of `order` whose documents hold at most `budget` tokens; at least one document.

    >>> within_budget(np.array([2, 0, 1]), np.array([5, 1, 3]), 8)
    array([2, 0])
    """
    return order[: max(1, int(np.searchsorted(np.cumsum(tokens[order]), budget, side="right")))]


def build_select(
    config: SelectConfig,
    prepared: Prepared,
    methods: Mapping[str, Scorer],
    seeds: range,
    folder: Path,
    bar: Bar,
) -> None:
    """Chooses documents by each method and seed, all with the same budget of tokens.

    Files:
        selected.jsonl: id, origin, score, text of the first method's documents for the first seed, best first.
        selections.parquet: method, seed, document (index), id, score; in the order of choice.
        select.json: documents and tokens of each selection, and `selected_fraction` of the source's tokens.
    """
    table = prepared.documents
    budget = config.ratio * float(table.n_tokens.sum())
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("method", "seed", "document", "id", "score")}
    counts: dict[str, list[dict[str, int]]] = {name: [] for name in methods}
    for seed in seeds:
        for name, method in methods.items():
            scores = np.asarray(method(prepared, stage_key(seed, "select", name, "scores")), np.float64)
            order = gumbel_order(scores, config.temperature, stage_key(seed, "select", name, "gumbel"))
            chosen = within_budget(order, table.n_tokens, budget)
            counts[name].append({"documents": len(chosen), "tokens": int(table.n_tokens[chosen].sum())})
            values = (np.full(len(chosen), name), np.full(len(chosen), seed), chosen, table.ids[chosen], scores[chosen])
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            if seed == seeds[0] and name == next(iter(methods)):
                _write_selected(folder / "selected.jsonl", prepared, chosen, scores)
            bar.update(1)
    with atomic(folder / "selections.parquet") as temporary:
        arrays = {name: pa.array(np.concatenate(parts).tolist()) for name, parts in columns.items()}
        pq.write_table(pa.table(arrays), temporary, compression="zstd")
    first = counts[next(iter(methods))]
    write_json(
        folder / "select.json",
        {
            "selections": counts,
            "selected_fraction": first[0]["tokens"] / float(table.n_tokens.sum()),
            "selected_documents": first[0]["documents"],
        },
    )


def _write_selected(path: Path, prepared: Prepared, chosen: np.ndarray, scores: np.ndarray) -> None:
    best_first = chosen[np.argsort(-scores[chosen], kind="stable")]
    lines = [
        json.dumps(
            {
                "id": prepared.documents.ids[d],
                "origin": prepared.documents.origins[d],
                "score": float(scores[d]),
                "text": text,
            },
            ensure_ascii=False,
        )
        for d, text in zip(best_first, prepared.documents.texts(best_first), strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n")


def load_selections(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """(method, seed) -> document indices in the order of choice."""
    table = pq.read_table(folder / "selections.parquet", columns=["method", "seed", "document"]).to_pydict()
    methods, seeds = np.asarray(table["method"]), np.asarray(table["seed"])
    documents = np.asarray(table["document"], np.int64)
    pairs = sorted(set(zip(methods.tolist(), seeds.tolist(), strict=True)))
    return {(method, seed): documents[(methods == method) & (seeds == seed)] for method, seed in pairs}
