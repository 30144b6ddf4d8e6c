"""The stage `prepare`: sources and target to tokenizer, tokens and document index."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data.corpus import check_numbers, write_rejected
from pmpjax.data.documents import Document, SourceError, within_budget
from pmpjax.data.duplicates import overlap, separate
from pmpjax.data.installed import Budget, by_kind
from pmpjax.data.prepared import Prepared as Prepared
from pmpjax.data.prepared import load_prepared as load_prepared
from pmpjax.data.sources import Corpus, packages_of, read_source, read_sources, split_target
from pmpjax.data.storage import write_tokens
from pmpjax.data.tokenizer import encode, end_of_document, train_tokenizer
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar

STEPS = 5
"""Units by which `prepare` moves its progress bar on."""


@dataclass(frozen=True)
class PrepareConfig:
    """What decides the prepared data.

    Attributes:
        source: sources of the corpus to select from: installed-docs, files, folders, tfds:NAME[@SPLIT],
            hf:NAME[@SPLIT], tinystories, story-grammar.
        target: the desired domain, one source; installed-docs:PACKAGE[,PACKAGE...] is taken out of the source.
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
        SourceError: a source or the target cannot be read, has no good row or less than one row of tokens, or nothing
            is left without copies; or a number of the config is out of its range.
    """
    _check(config)
    target = read_source(config.target, config.budget, seed=config.seed)
    progress.update(1, step="target")
    source = read_sources(config.source, config.budget, exclude=packages_of(config.target), seed=config.seed)
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
        "by_kind": by_kind(chosen.source),
        # How much of the test text the source holds all the same, in 5-word pieces: phrases, not copies.
        "test_overlap": float(np.mean(overlap([d.text for d in chosen.test], [d.text for d in chosen.source]))),
    }
    tables = {}
    for name, documents in (("source", chosen.source), ("dev", chosen.dev), ("test", chosen.test)):
        sequences = encode(tokenizer, [document.text for document in documents])
        write_tokens(folder / "tokens", name, sequences)
        tables[name], counts[name] = _index(documents, sequences, config.length)
        if counts[name]["tokens"] < config.length:
            raise SourceError(
                f"{name} has {counts[name]['tokens']} tokens, less than one row of {config.length}; give more text or "
                "lower --prepare.length"
            )
    _write_table(folder / "documents.parquet", tables["source"])
    splits = [table.append_column("split", pa.array([name] * len(table))) for name, table in list(tables.items())[1:]]
    _write_table(folder / "target.parquet", pa.concat_tables(splits))
    write_rejected(folder / "rejected.jsonl", [*target.rejected, *source.rejected])
    write_json(folder / "packages.json", {"source": source.packages, "target": target.packages})
    write_json(folder / "counts.json", counts)
    progress.update(1, step="tokens", tokens=counts["source"]["tokens"])


def _check(config: PrepareConfig) -> None:
    """Refuses what would otherwise fail only after the sources have been read."""
    if config.length < 2:
        raise SourceError(f"length is {config.length}; a row needs at least 2 tokens to have one to predict")
    check_numbers(config.vocabulary, config.near)


def _without_copies(config: PrepareConfig, source: Corpus, target: Corpus) -> _Selected:
    """Takes copies out, test before dev before source, then cuts dev and test to their budgets."""
    dev, test = split_target(target.documents, config.seed)
    # The whole target, not the part within the budget: what is not measured on must not be learned from either.
    found = separate({"test": test, "dev": dev, "source": source.documents}, config.near)
    copies = found.copies
    removed = {
        "duplicates_removed": copies["source"]["source"],
        "exact_duplicates_removed": found.exact["source"]["source"],
        "leaks_removed": copies["source"]["test"] + copies["source"]["dev"],
        "dev_leaks_removed": copies["dev"]["test"],
        "target_duplicates_removed": copies["test"]["test"] + copies["dev"]["dev"],
    }
    return _Selected(
        found.kept["source"],
        within_budget(found.kept["dev"], config.dev_bytes, config.seed),
        within_budget(found.kept["test"], config.test_bytes, config.seed),
        removed,
    )


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


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
