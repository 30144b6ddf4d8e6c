"""The stage `prepare`: sources and target to tokenizer, tokens and document index."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data.documents import Document, SourceError, digest
from pmpjax.data.duplicates import EXACT, find_copies, overlap
from pmpjax.data.installed import Budget
from pmpjax.data.prepared import Prepared as Prepared
from pmpjax.data.prepared import load_prepared as load_prepared
from pmpjax.data.sources import Corpus, package_of, read_source, read_sources, split_target
from pmpjax.data.storage import write_tokens
from pmpjax.data.tokenizer import encode, end_of_document, train_tokenizer
from pmpjax.runs import atomic, write_json, write_text
from pmpjax.runs.progress import Bar

STEPS = 5
"""Units by which `prepare` moves its progress bar on."""


@dataclass(frozen=True)
class PrepareConfig:
    """What decides the prepared data.

    Attributes:
        source: sources of the corpus to select from: installed-docs, files, folders, tfds:NAME[@SPLIT].
        target: the desired domain, one source; installed-docs:PACKAGE is taken out of the source.
        vocabulary: ids of the tokenizer, which is trained on the source. 2,048 ids take 13% more tokens than 4,096 and
            half the output product, which is most of a small decoder: a fifth less work a byte at d 128, 2 layers.
        length: tokens of a row.
        budget: how much of installed-docs is taken, in bytes by kind.
        dev_bytes: at most this much text of the target for the costate.
        test_bytes: at most this much text of the target for the verdict.
        near: Jaccard similarity of 5-word shingles from which a text counts as a copy.
        seed: of the sample of installed-docs, the order of documents and the split of the target.
    """

    source: tuple[str, ...] = ("installed-docs",)
    target: str = "installed-docs:scipy"
    vocabulary: int = 2048
    length: int = 128
    budget: Budget = field(default_factory=Budget)
    dev_bytes: int = 300_000
    test_bytes: int = 300_000
    near: float = 0.7
    seed: int = 0


class _Selected(NamedTuple):
    """Documents of the three sets without copies, and what was taken out."""

    source: list[Document]
    dev: list[Document]
    test: list[Document]
    removed: dict[str, int]


def prepare(config: PrepareConfig, folder: Path, progress: Bar) -> None:
    """Fills `folder` with everything that `load_prepared` reads; the same installed versions give the same bytes.

    Files:
        tokenizer.json: byte-level BPE trained on the source alone.
        documents.parquet: id, origin, text, bytes, tokens, first_row, rows of the source's documents.
        target.parquet: the same of dev and test, with the column `split`.
        tokens/: ArrayRecord shards `source`, `dev` and `test`, one record a document.
        rejected.jsonl: file, line and reason of each bad row.
        counts.json: numbers for the report, among them duplicates_removed (copies inside the source), leaks_removed
            (documents of the source that copy the target) and rejected_rows.
        packages.json: version and content hash of every package of installed-docs.

    Raises:
        SourceError: a source or the target cannot be read, has no good row, or nothing is left without copies; or a
            number of the config is out of its range.
    """
    _check(config)
    target = read_source(config.target, config.budget, seed=config.seed)
    progress.update(1, step="target")
    package = package_of(config.target)
    exclude = frozenset() if package is None else frozenset({package})
    source = read_sources(config.source, config.budget, exclude=exclude, seed=config.seed)
    progress.update(1, step="source", documents=len(source.documents))
    chosen = _without_copies(config, source, target)
    progress.update(1, step="copies", **{name: count for name, count in chosen.removed.items() if count})

    tokenizer = train_tokenizer((document.text for document in chosen.source), config.vocabulary)
    with atomic(folder / "tokenizer.json") as temporary:
        tokenizer.save(str(temporary))
    progress.update(1, step="tokenizer")

    counts: dict[str, Any] = {
        "length": config.length,
        "vocabulary": tokenizer.get_vocab_size(),
        "end_of_document": end_of_document(tokenizer),
        **chosen.removed,
        "rejected_rows": len(source.rejected) + len(target.rejected),
        "by_kind": _by_kind(chosen.source),
        # How much of the test text the source holds all the same, in 5-word pieces: phrases, not copies.
        "test_overlap": float(np.mean(overlap([d.text for d in chosen.test], [d.text for d in chosen.source]))),
    }
    tables = {}
    for name, documents in (("source", chosen.source), ("dev", chosen.dev), ("test", chosen.test)):
        sequences = encode(tokenizer, [document.text for document in documents])
        write_tokens(folder / "tokens", name, sequences)
        tables[name], counts[name] = _index(documents, sequences, config.length)
    _write_table(folder / "documents.parquet", tables["source"])
    splits = [table.append_column("split", pa.array([name] * len(table))) for name, table in list(tables.items())[1:]]
    _write_table(folder / "target.parquet", pa.concat_tables(splits))
    lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in (*target.rejected, *source.rejected)]
    write_text(folder / "rejected.jsonl", "".join(lines))
    write_json(folder / "packages.json", {"source": source.packages, "target": target.packages})
    write_json(folder / "counts.json", counts)
    progress.update(1, step="tokens", tokens=counts["source"]["tokens"])


def _check(config: PrepareConfig) -> None:
    """Refuses what would otherwise fail only after the sources have been read."""
    if config.length < 2:
        raise SourceError(f"length is {config.length}; a row needs at least 2 tokens to have one to predict")
    if config.vocabulary < 257:
        raise SourceError(
            f"vocabulary is {config.vocabulary}; 256 bytes and the end-of-document token make 257 or more"
        )
    if not 0.5 <= config.near <= 1:
        raise SourceError(f"near is {config.near}; the search for near-copies serves similarities of 0.5 to 1")


def _without_copies(config: PrepareConfig, source: Corpus, target: Corpus) -> _Selected:
    """Takes copies out, test before dev before source, then cuts dev and test to their budgets."""
    dev, test = split_target(target.documents, config.seed)
    # The whole target, not the part within the budget: what is not measured on must not be learned from either.
    documents = [*test, *dev, *source.documents]
    copies = find_copies([document.text for document in documents], config.near)
    copy, original = copies.kind > 0, copies.original
    index = np.arange(len(documents))
    in_test, in_source = index < len(test), index >= len(test) + len(dev)
    in_dev = ~in_test & ~in_source
    of_test, of_target = original < len(test), original < len(test) + len(dev)
    removed = {
        "duplicates_removed": int((in_source & copy & ~of_target).sum()),
        "exact_duplicates_removed": int((in_source & (copies.kind == EXACT) & ~of_target).sum()),
        "leaks_removed": int((in_source & copy & of_target).sum()),
        "dev_leaks_removed": int((in_dev & copy & of_test).sum()),
        "target_duplicates_removed": int(((in_test & copy) | (in_dev & copy & ~of_test)).sum()),
    }
    kept = [[documents[i] for i in np.flatnonzero(part & ~copy)] for part in (in_source, in_dev, in_test)]
    for name, part in zip(("source", "dev", "test"), kept, strict=True):
        if not part:
            raise SourceError(
                f"nothing is left of the {name} when copies are taken out ({removed}); "
                f"name a source that does not hold the target, or a target of more documents"
            )
    return _Selected(
        kept[0],
        _sample(kept[1], config.dev_bytes, config.seed),
        _sample(kept[2], config.test_bytes, config.seed),
        removed,
    )


def _sample(documents: Sequence[Document], budget: int, seed: int) -> list[Document]:
    """Documents in the order of a seeded hash until the budget is spent; at least one."""
    ordered = sorted(documents, key=lambda document: digest(str(seed), "sample", document.id))
    spent = np.cumsum([len(document.text.encode()) for document in ordered])
    return ordered[: max(1, int(np.searchsorted(spent, budget, side="right")))]


def _index(documents: Sequence[Document], sequences: list[np.ndarray], length: int) -> tuple[pa.Table, dict[str, Any]]:
    """The document index of a set, and its counts."""
    sizes = np.array([len(document.text.encode()) for document in documents], np.int64)
    tokens = np.array([len(sequence) for sequence in sequences], np.int64)
    rows = -(-tokens // length)
    table = pa.table(
        {
            "id": [document.id for document in documents],
            "origin": [document.origin for document in documents],
            "text": [document.text for document in documents],
            "bytes": sizes,
            "tokens": tokens,
            "first_row": np.cumsum(rows) - rows,
            "rows": rows,
        }
    )
    counts = {
        "documents": len(documents),
        "groups": len({document.group for document in documents}),
        "bytes": int(sizes.sum()),
        "tokens": int(tokens.sum()),
        "rows": int(rows.sum()),
        "padding": float(1 - tokens.sum() / (rows.sum() * length)),
    }
    return table, counts


def _by_kind(documents: Sequence[Document]) -> dict[str, dict[str, int]]:
    """Documents and bytes by kind of harvested text; files count by their ending."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for document in documents:
        parts = document.origin.split(":")
        kind = parts[1] if len(parts) == 3 else Path(parts[0]).suffix.removeprefix(".") or "other"
        number[kind] += 1
        size[kind] += len(document.text.encode())
    return {kind: {"documents": number[kind], "bytes": size[kind]} for kind in sorted(number)}


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
