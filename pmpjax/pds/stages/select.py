"""The stage `select`: which documents are trained on."""

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array, Float, Int

from pmpjax.baselines import Scorer
from pmpjax.data import DocumentTable, Prepared
from pmpjax.pds.origins import origin_group
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key
from pmpjax.scoring.engine import StoredScores
from pmpjax.scoring.top_r import Chosen, Corpus, Documents, Passes, gumbel_selection, measure

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
            the budget; its documents are passed over from the first one on that would bring it above.
        falling: methods whose documents come as often as their rank says (`falling_weights`); all others, as their
            papers have it, take each chosen document once. What a weight is worth is seen only where the highest ranks
            are right: AdamW's worths and RHO-Loss gain by it, SGD's worths do not (`experiments/pds_compare.md`).
        slope: of those weights, in [0, 1]: from 1 + slope for the first document to 1 - slope for the last. It is for
            trainings of less than two passes over the selection; where more would be made, a larger ratio is better
            than less slope (`experiments/pds_small.md`).
    """

    ratio: float = 0.4
    temperature: float = 0.1
    largest_share: float = 1.0
    falling: tuple[str, ...] = ()
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
    groups = np.zeros(len(table.ids), np.int64)
    if config.largest_share < 1:
        groups = np.unique([origin_group(origin) for origin in table.origins], return_inverse=True)[1].astype(np.int64)
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    first = (next(iter(methods)), seeds[0])
    with (
        atomic(folder / "selections.parquet") as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for seed in seeds:
            for name, method in methods.items():
                passes = _passes(prepared, method, groups, stage_key(seed, "select", name, "scores"))
                corpus = measure(passes)
                chosen = _choose(config, passes, corpus, stage_key(seed, "select", name, "gumbel"))
                times = np.ones(len(chosen.tokens), np.int64)
                if name in config.falling:
                    offset = stage_generator(seed, "select", name, "times").random()
                    times = falling_times(chosen.tokens, config.ratio * corpus.tokens, offset, config.slope)
                tokens = int(times @ chosen.tokens)
                facts[name].append(
                    {"documents": int((times > 0).sum()), "tokens": tokens, "all_equal": corpus.deviation == 0}
                )
                writer.write_table(_selection(prepared, name, seed, chosen, times))
                if (name, seed) == first:
                    by_score = np.argsort(-chosen.score, kind="stable")
                    by_score = by_score[times[by_score] > 0]
                    columns = (column[by_score] for column in (chosen.position, chosen.score, times))
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


def _choose(config: SelectConfig, passes: Passes, corpus: Corpus, key: Array) -> Chosen:
    """The chosen documents in the order of choice: their numbers alone are all in memory."""
    parts = gumbel_selection(
        passes,
        corpus,
        key,
        temperature=config.temperature,
        budget=config.ratio * corpus.tokens,
        share=config.largest_share,
    )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(-Chosen(*columns).value, kind="stable")
    return Chosen(*(column[order] for column in columns))


def falling_weights(tokens: Int[np.ndarray, " chosen"], slope: float = 1.0) -> Float[np.ndarray, " chosen"]:
    """w_n = 1 + slope (1 - 2 F_n): F_n is the share of the chosen tokens chosen before the middle of document n.

    By tokens their mean is 1: what is seen stays as much. `tokens`: of documents in the order of choice. `slope`: in
    [0, 1]; 1 is from twice to not at all.

    The worth is a derivative in the weights: a step along it gives the worthier documents more, and they are worth less
    with each time that they come. The paper's projection on the simplex would weigh by the worths themselves; weights
    by rank do the same with whatever tails the worths have.

    >>> falling_weights(np.array([1, 2, 1])).tolist()
    [1.75, 1.0, 0.25]
    >>> falling_weights(np.array([1, 2, 1]), slope=0.5).tolist()
    [1.375, 1.0, 0.625]
    """
    before = np.cumsum(tokens) - tokens / 2
    return 1 + slope * (1 - 2 * before / max(1, int(np.sum(tokens))))


def falling_times(
    tokens: Int[np.ndarray, " chosen"], budget: float, offset: float, slope: float = 1.0
) -> Int[np.ndarray, " chosen"]:
    """How often each document comes in one pass: `whole_times` of its falling weight.

    Where rounding would bring more tokens than `budget`, the last documents are left out; the first always comes.

    >>> falling_times(np.array([1, 1, 1, 1]), budget=4.0, offset=0.5).tolist()
    [2, 1, 1, 0]
    """
    times = whole_times(falling_weights(tokens, slope), offset)
    times[np.cumsum(times * tokens) > budget] = 0
    times[:1] = np.maximum(times[:1], 1)
    return times


def whole_times(weights: Float[np.ndarray, " chosen"], offset: float) -> Int[np.ndarray, " chosen"]:
    """How often each comes: w_n rounded down or up, so that all before it together are within one of their weights.

    Over an offset drawn evenly from [0, 1) the expectation of each is its weight (systematic sampling).

    >>> whole_times(np.array([1.75, 1.0, 0.25]), offset=0.5).tolist()
    [2, 1, 0]
    """
    ends = np.floor(np.cumsum(weights) + offset).astype(np.int64)
    return np.diff(ends, prepend=0)


def _passes(prepared: Prepared, method: Scorer, groups: np.ndarray, key: Array) -> Passes:
    """A method's documents in parts; scores that lie in a file are read from it again at each pass."""
    if isinstance(method, StoredScores):
        method.check(prepared)
        parts = method.parts
    else:
        scores = np.asarray(method(prepared, key), np.float64)
        parts = functools.partial(iter, [scores])

    def passes() -> Iterator[Documents]:
        begin = 0
        for scores in parts():
            end = begin + len(scores)
            yield Documents(scores, prepared.documents.n_tokens[begin:end], groups[begin:end])
            begin = end

    return passes


def _selection(prepared: Prepared, method: str, seed: int, chosen: Chosen, times: np.ndarray) -> pa.Table:
    position, count = np.repeat(chosen.position, times), int(times.sum())
    ids, score = prepared.documents.ids[position].tolist(), np.repeat(chosen.score, times)
    return pa.table([[method] * count, [seed] * count, position, ids, score], schema=SCHEMA)


def write_selected(
    path: Path, table: DocumentTable, documents: np.ndarray, scores: np.ndarray, times: np.ndarray
) -> None:
    """One line of JSON a document, in the order given: id, origin, score, times, text; a few texts in memory at a time.

    Texts lie in the corpus's order: their lines go to a nameless file as they come, and from there to their places.
    """
    order = np.argsort(documents, kind="stable")
    begins, sizes = np.zeros(len(documents), np.int64), np.zeros(len(documents), np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as lines, atomic(path) as temporary, open(temporary, "wb") as file:
        for place, text in zip(order, _texts(table, documents[order]), strict=True):
            document = documents[place]
            line = {
                "id": table.ids[document],
                "origin": table.origins[document],
                "score": float(scores[place]),
                "times": int(times[place]),
                "text": text,
            }
            begins[place] = lines.tell()
            sizes[place] = lines.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
            lines.seek(begin)
            file.write(lines.read(size))


def _texts(table: DocumentTable, documents: np.ndarray) -> Iterator[str]:
    """The texts of documents of rising index, from one reading of the column."""
    first = 0
    for batch in pq.ParquetFile(table.path).iter_batches(1024, columns=["text"]):
        wanted = documents[np.searchsorted(documents, first) : np.searchsorted(documents, first + len(batch))]
        yield from batch["text"].take(pa.array(wanted - first)).to_pylist()
        first += len(batch)


def load_selections(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """(method, seed) -> document indices in the order of choice, each as often as it comes in one pass."""
    table = pq.read_table(folder / "selections.parquet", columns=["method", "seed", "document"]).to_pydict()
    methods, seeds = np.asarray(table["method"]), np.asarray(table["seed"])
    documents = np.asarray(table["document"], np.int64)
    pairs = sorted(set(zip(methods.tolist(), seeds.tolist(), strict=True)))
    return {(method, seed): documents[(methods == method) & (seeds == seed)] for method, seed in pairs}
