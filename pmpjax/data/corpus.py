"""The one preparation of a corpus: sources to splits without copies, a tokenizer, token shards and a document index."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pmpjax.data.documents import Document, SourceError, digest, within_budget
from pmpjax.data.duplicates import Deduplicated, deduplicate, overlap
from pmpjax.data.origins import by_kind
from pmpjax.data.prepared import document_index, write_index
from pmpjax.data.sources import Corpus, packages_of, read_source, read_sources
from pmpjax.data.sources.installed import Budget
from pmpjax.data.storage import write_tokens
from pmpjax.data.tokenizer import (
    END_OF_DOCUMENT,
    encode,
    end_of_document,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)
from pmpjax.runs import atomic, write_json, write_text
from pmpjax.runs.progress import Bar

STEPS = 5
"""Units by which `prepare_corpus` moves its progress bar on."""

Split = Callable[[list[Document], list[Document]], Mapping[str, Sequence[Document]]]
"""(documents of the source, of the held-out source) -> the documents of each split."""


@dataclass(frozen=True)
class Preparation:
    """What decides the prepared data.

    Attributes:
        source: names of sources, as `pmpjax.data.read_source` takes them.
        heldout: one more source, to be kept apart; its packages of installed-docs are left out of `source`. None: the
            splits come from `source` alone.
        split: names the splits, two or more, in the order in which they keep a text: of two copies, the one in the
            earlier split stays. The last split is the corpus, on which the tokenizer is trained.
        role: what the held-out source is called in files and counts.
        at_most: bytes of text by split; the rest is left out once copies are removed. All of a split that is not named.
        length: tokens of a row that holds one document. None: rows run across documents (`pmpjax.data.PackedRows`),
            and those of the corpus are stored in a seeded random order, so that neighbours are not of one file.
        tokenizer: path of any tokenizer.json; None trains byte-level BPE.
        end_token: the token that ends a document.
        vocabulary: ids of a trained tokenizer.
        budget: how much of installed-docs is taken, in bytes by kind.
        near_duplicates: Jaccard similarity of 5-word shingles from which a text counts as a copy.
        seed: of the sample of installed-docs, of generated stories, of the budgets and the order.

    Raises:
        SourceError: a number is out of its range.
    """

    source: Sequence[str]
    heldout: str | None
    split: Split
    role: str = "heldout"
    at_most: Mapping[str, int] = field(default_factory=dict)
    length: int | None = None
    tokenizer: str | None = None
    end_token: str = END_OF_DOCUMENT
    vocabulary: int = 4096
    budget: Budget = field(default_factory=Budget)
    near_duplicates: float = 0.7
    seed: int = 0

    def __post_init__(self):
        if self.length is not None and self.length < 2:
            raise SourceError(f"length is {self.length}; a row needs at least 2 tokens to have one to predict")
        if self.vocabulary < 257:
            raise SourceError(
                f"vocabulary is {self.vocabulary}; expected 257 or more: 256 bytes and {self.end_token!r}"
            )
        if not 0.5 <= self.near_duplicates <= 1:
            raise SourceError(f"near_duplicates is {self.near_duplicates}; expected a similarity of 0.5 to 1")


def prepare_corpus(plan: Preparation, folder: Path, progress: Bar) -> None:
    """Fills `folder` with the corpus and its splits; the same installed versions and files give the same bytes.

    Files:
        tokenizer.json: trained on the corpus alone, or a copy of the one that was named.
        tokens/: ArrayRecord shards of each split, one record a document.
        documents.parquet, ROLE.parquet: with a `length`, the `document_index` of the corpus, and of the other splits
            with a column `split`.
        rejected.jsonl: file, line and reason of each bad row.
        packages.json: version and content hash of every package of installed-docs, by source and ROLE.
        counts.json: written last, and so a sign that all else is whole. length or end_token, vocabulary (size of the
            embedding) and end_of_document (id); duplicates_removed and exact_duplicates_removed (inside the corpus),
            leaks_removed (documents of the corpus that copy another split), SPLIT_leaks_removed (of a split that copy
            an earlier one), ROLE_duplicates_removed (inside the other splits); rejected_rows; by_kind (of the corpus);
            SPLIT_overlap (share of the first split's 5-word shingles that the corpus holds all the same: phrases, not
            copies); and of each split documents, groups, bytes (UTF-8 of the texts), tokens (ends included), and with
            a `length` rows and padding (a share).

    Raises:
        SourceError: a source or the tokenizer cannot be read, has no good row or no end token; nothing is left of a
            split without copies, or less than one row of tokens.
    """
    tokenizer = None if plan.tokenizer is None else load_tokenizer(plan.tokenizer, plan.end_token)
    heldout, excluded = Corpus(), frozenset()
    if plan.heldout is not None:
        heldout = read_source(plan.heldout, plan.budget, seed=plan.seed)
        excluded = packages_of(plan.heldout)
    progress.update(1, step=plan.role, documents=len(heldout.documents))
    source = read_sources(plan.source, plan.budget, exclude=excluded, seed=plan.seed)
    progress.update(1, step="source", documents=len(source.documents))
    # Whole splits, not the parts within their budgets: what is not measured on must not be learned from either.
    found = deduplicate(plan.split(source.documents, heldout.documents), plan.near_duplicates)
    removed = _removed(found, plan.role)
    splits = {name: _stored(plan, name, found) for name in reversed(found.kept)}
    last, *_, first = splits
    corpus = splits[last]
    progress.update(1, step="copies", **{name: count for name, count in removed.items() if count})

    if tokenizer is None:
        tokenizer = train_tokenizer((document.text for document in corpus), plan.vocabulary, plan.end_token)
    _write_tokenizer(plan, tokenizer, folder / "tokenizer.json")
    progress.update(1, step="tokenizer")

    counts: dict[str, Any] = {
        **({} if plan.length is None else {"length": plan.length}),
        "vocabulary": vocabulary_size(tokenizer),
        "end_of_document": end_of_document(tokenizer, plan.end_token),
        **({"end_token": plan.end_token} if plan.length is None else {}),
        **removed,
        "rejected_rows": len(source.rejected) + len(heldout.rejected),
        "by_kind": by_kind(corpus),
        f"{first}_overlap": float(np.mean(overlap([d.text for d in splits[first]], [d.text for d in corpus]))),
    }
    tables = {}
    for name, documents in splits.items():
        sequences = encode(tokenizer, [document.text for document in documents], plan.end_token)
        write_tokens(folder / "tokens", name, sequences, lengths=plan.length is None)
        counts[name] = _counts(documents, sequences)
        if plan.length is not None:
            tables[name], rows = document_index(documents, sequences, plan.length)
            counts[name] |= rows
            if counts[name]["tokens"] < plan.length:
                raise SourceError(
                    f"{name} has {counts[name]['tokens']} tokens, less than one row of {plan.length}; give more text "
                    "or a smaller length"
                )
    if tables:
        write_index(tables, folder, plan.role)
    rejected = [json.dumps(item._asdict(), ensure_ascii=False) for item in (*heldout.rejected, *source.rejected)]
    write_text(folder / "rejected.jsonl", "".join(line + "\n" for line in rejected))
    write_json(folder / "packages.json", {"source": source.packages, plan.role: heldout.packages})
    write_json(folder / "counts.json", counts)
    progress.update(1, step="tokens", tokens=counts[last]["tokens"])


def _stored(plan: Preparation, name: str, found: Deduplicated) -> list[Document]:
    """A split as it is stored: within its budget, and the corpus of packed rows in a random order."""
    documents = found.kept[name]
    if name in plan.at_most:
        return within_budget(documents, plan.at_most[name], plan.seed)
    if plan.length is None and name == next(reversed(found.kept)):
        return sorted(documents, key=lambda document: digest(str(plan.seed), "order", document.id))
    return documents


def _removed(found: Deduplicated, role: str) -> dict[str, int]:
    """How many documents were removed as copies, for counts.json; see `prepare_corpus`."""
    *others, corpus = found.kept
    copies = found.copies
    return {
        "duplicates_removed": copies[corpus][corpus],
        "exact_duplicates_removed": found.exact[corpus][corpus],
        "leaks_removed": sum(copies[corpus][name] for name in others),
        **{
            f"{name}_leaks_removed": sum(copies[name][earlier] for earlier in others[:number])
            for number, name in enumerate(others)
            if number
        },
        f"{role}_duplicates_removed": sum(copies[name][name] for name in others),
    }


def _counts(documents: Sequence[Document], sequences: Sequence[np.ndarray]) -> dict[str, Any]:
    return {
        "documents": len(documents),
        "groups": len({document.group for document in documents}),
        "bytes": sum(len(document.text.encode()) for document in documents),
        "tokens": sum(map(len, sequences)),
    }


def _write_tokenizer(plan: Preparation, tokenizer: Tokenizer, path: Path) -> None:
    with atomic(path) as temporary:
        if plan.tokenizer is None:
            tokenizer.save(str(temporary))
        else:
            shutil.copyfile(plan.tokenizer, temporary)
