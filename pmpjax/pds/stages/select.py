"""The stage `select`: which documents are trained on, and how often."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from pmpjax.baselines import Scorer
from pmpjax.data import Prepared
from pmpjax.data.origins import origin_groups
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key
from pmpjax.scoring.repetition import repetitions_by_rank
from pmpjax.scoring.selected import write_selected
from pmpjax.scoring.stored import StoredScores
from pmpjax.scoring.top_r import Chosen, Documents, Scale, gumbel_selection, measure

PART = 1 << 20
"""Documents that the selection sorts at a time, with those that are kept."""

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("document", pa.int64()),
        ("id", pa.string()),
        ("score", pa.float64()),
    ]
)


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """How much is kept, and how random the choice is.

    Attributes:
        ratio: share of the source's tokens.
        temperature: tau of the Gumbel noise on standardised scores; 0 keeps the highest.
        largest_share: no group of origins (a kind of harvested text, an ending of files) has more than this share of
            the budget; its documents are left out from the first one on that would exceed it.
        repeat_by_rank: methods whose documents are repeated by their rank (`rank_weights`); all others, as in their
            papers, take each chosen document once. Repetition helps only where the highest ranks are right:
            AdamW's scores and RHO-Loss gain by it, SGD's scores do not (`experiments/pds_compare.md`).
        slope: of those weights, in [0, 1]: from 1 + slope for the first document to 1 - slope for the last. It is for
            trainings of less than two passes over the selection; where more would be made, a larger ratio is better
            than less slope (`experiments/pds_small.md`).
    """

    ratio: float = 0.4
    temperature: float = 0.1
    largest_share: float = 1.0
    repeat_by_rank: tuple[str, ...] = ()
    slope: float = 1.0

    def __post_init__(self):
        if not (0 < self.ratio <= 1 and 0 < self.largest_share <= 1 and 0 <= self.temperature < math.inf):
            raise ValueError(
                f"select: ratio {self.ratio} and largest_share {self.largest_share} must lie in (0, 1], and "
                f"temperature {self.temperature} not be negative"
            )
        if not 0 <= self.slope <= 1:
            raise ValueError(f"select: slope {self.slope} must lie in [0, 1]; 0 takes each document once")


def build_select(
    config: SelectConfig,
    prepared: Prepared,
    methods: Mapping[str, Scorer],
    seeds: range,
    folder: Path,
    bar: Bar,
) -> None:
    """Chooses documents by each method and seed, all with the same budget of tokens (`gumbel_selection`).

    Files:
        selected.jsonl: id, origin, score, times, text of the first method's documents for the first seed, best first; a
            line a document, and how often it comes in one pass over the selection.
        selections.parquet: method, seed, document (index), id, score; in the order of choice, a line for each time that
            the document comes in one pass.
        select.json: of each selection the documents, the tokens of one pass over it and `all_equal` (a method that
            gives all documents one score chooses at random); of the first its documents, and its tokens as a share of
            the source's, `selected_fraction`.
    """
    table = prepared.documents
    groups = np.zeros(len(table.ids), np.int64) if config.largest_share == 1 else origin_groups(table.origins)[1]
    stored = {
        name: _measured(method.read(prepared)) for name, method in methods.items() if isinstance(method, StoredScores)
    }
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    first = (next(iter(methods)), seeds[0])
    with (
        atomic(folder / "selections.parquet") as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for seed in seeds:
            for name, method in methods.items():
                scores, scale = stored.get(name) or _measured(
                    method(prepared, stage_key(seed, "select", name, "scores"))
                )
                documents = Documents(scores, table.n_tokens, groups)
                chosen, count = _choose(config, documents, scale, name, seed)
                tokens, all_equal = int(count @ chosen.tokens), scale.deviation == 0
                facts[name].append({"documents": int((count > 0).sum()), "tokens": tokens, "all_equal": all_equal})
                position = np.repeat(chosen.position, count)
                ids = table.ids[position].tolist()
                columns = [[name] * len(ids), [seed] * len(ids), position, ids, scores[position]]
                writer.write_table(pa.table(columns, schema=SCHEMA))
                if (name, seed) == first:
                    best = np.argsort(-chosen.score, kind="stable")
                    best = best[count[best] > 0]
                    columns = (column[best] for column in (chosen.position, chosen.score, count))
                    write_selected(folder / "selected.jsonl", table, *columns)
                bar.update(1)
    of_first = facts[first[0]][0]
    write_json(
        folder / "select.json",
        {
            "selections": facts,
            "selected_fraction": of_first["tokens"] / float(table.n_tokens.sum()),
            "selected_documents": of_first["documents"],
            "all_equal": of_first["all_equal"],
        },
    )


def _measured(scores: Any) -> tuple[np.ndarray, Scale]:
    scores = np.asarray(scores, np.float64)
    return scores, measure(scores)


def _choose(
    config: SelectConfig, documents: Documents, scale: Scale, name: str, seed: int
) -> tuple[Chosen, Int[np.ndarray, " chosen"]]:
    """The chosen documents in the order of choice, and how often each one comes in one pass."""
    budget = config.ratio * int(documents.tokens.sum())
    parts = (slice(begin, begin + PART) for begin in range(0, len(documents.score), PART))
    chosen = gumbel_selection(
        (Documents(*(column[part] for column in documents)) for part in parts),
        scale,
        stage_key(seed, "select", name, "gumbel"),
        temperature=config.temperature,
        budget=budget,
        share=config.largest_share,
    )
    if name not in config.repeat_by_rank:
        return chosen, np.ones(len(chosen.tokens), np.int64)
    offset = stage_generator(seed, "select", name, "times").random()
    return chosen, repetitions_by_rank(chosen.tokens, budget, offset, config.slope)


def load_selections(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """(method, seed) -> document indices in the order of choice, each as often as it comes in one pass."""
    table = pq.read_table(folder / "selections.parquet", columns=["method", "seed", "document"]).to_pydict()
    methods, seeds = np.asarray(table["method"]), np.asarray(table["seed"])
    documents = np.asarray(table["document"], np.int64)
    pairs = sorted(set(zip(methods.tolist(), seeds.tolist(), strict=True)))
    return {(method, seed): documents[(methods == method) & (seeds == seed)] for method, seed in pairs}
