"""The first stage of a training run: sources to a tokenizer, token shards and a held-out part that is never seen."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pmpjax.data.documents import Document, Rejection, SourceError, digest, within_budget
from pmpjax.data.duplicates import overlap, separate
from pmpjax.data.installed import Budget, by_kind
from pmpjax.data.sources import Corpus, hold_out, packages_of, read_source, read_sources
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
"""Units by which `build_corpus` moves its progress bar on."""


@dataclass(frozen=True)
class CorpusConfig:
    """What decides the tokens that a model is trained and measured on.

    Attributes:
        source: sources to train on: installed-docs, files, folders, tfds:NAME[@SPLIT], hf:NAME[@SPLIT], tinystories,
            story-grammar.
        heldout: one source to measure on; installed-docs:PACKAGE[,PACKAGE...] is taken out of the source, and so is
            every copy of a held-out text. A share, "5%", holds out whole files or packages of the source itself.
        source_bytes: at most this much text of the source, a random part of it; None takes all. Copies are searched in
            memory, which takes some thirty times the text.
        heldout_bytes: at most this much held-out text.
        tokenizer: path of any tokenizer.json; None trains byte-level BPE on the source.
        end_token: the token of that tokenizer that ends a document, "<|endoftext|>" or "</s>" in many.
        vocabulary: ids of a trained tokenizer.
        budget: how much of installed-docs is taken, in bytes by kind.
        near: Jaccard similarity of 5-word shingles from which a text counts as a copy.
        seed: of the sample of installed-docs and the order of documents.
    """

    source: tuple[str, ...] = ("installed-docs",)
    heldout: str = "installed-docs:scipy"
    source_bytes: int | None = None
    heldout_bytes: int = 500_000
    tokenizer: str | None = None
    end_token: str = END_OF_DOCUMENT
    vocabulary: int = 4096
    budget: Budget = field(default_factory=Budget)
    near: float = 0.7
    seed: int = 0


def build_corpus(config: CorpusConfig, folder: Path, progress: Bar) -> None:
    """Fills `folder` with what a training run reads; the same installed versions and files give the same bytes.

    Documents are stored in a seeded random order, so that neighbouring rows are not of one package or file.

    Files:
        tokenizer.json: trained on the source alone, or a copy of the one that was named.
        tokens/: ArrayRecord shards `train` and `heldout`, one record a document, for `pmpjax.data.PackedRows`.
        rejected.jsonl: file, line and reason of each bad row.
        packages.json: version and content hash of every package of installed-docs.
        counts.json: vocabulary (size of the embedding), end_of_document (id) and end_token (its text); of `train` and
            `heldout` each documents, groups, bytes (UTF-8 of the texts, for bits a byte) and tokens (ends included);
            duplicates_removed and exact_duplicates_removed (inside the source), leaks_removed (documents of the source
            that copy a held-out one), heldout_duplicates_removed, rejected_rows, by_kind, and heldout_overlap (share of
            the held-out 5-word pieces that the source holds all the same). Written last.

    Raises:
        SourceError: a source or the tokenizer cannot be read, has no good row or no end token, nothing is left without
            copies, or a number of the config is out of its range.
    """
    check_numbers(config.vocabulary, config.near)
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer, config.end_token)
    share = _share(config.heldout)
    heldout = Corpus() if share else read_source(config.heldout, config.budget, seed=config.seed)
    progress.update(1, step="held-out text", documents=len(heldout.documents))
    exclude = frozenset() if share else packages_of(config.heldout)
    source = read_sources(config.source, config.budget, exclude=exclude, seed=config.seed)
    progress.update(1, step="source", documents=len(source.documents))
    part = source.documents
    if config.source_bytes is not None:
        part = within_budget(part, config.source_bytes, config.seed)
    if share:
        part, heldout.documents = hold_out(part, share, config.seed)
    found = separate({"heldout": heldout.documents, "source": part}, config.near)
    removed = {
        "duplicates_removed": found.copies["source"]["source"],
        "exact_duplicates_removed": found.exact["source"]["source"],
        "leaks_removed": found.copies["source"]["heldout"],
        "heldout_duplicates_removed": found.copies["heldout"]["heldout"],
    }
    train = sorted(found.kept["source"], key=lambda document: digest(str(config.seed), "order", document.id))
    held = within_budget(found.kept["heldout"], config.heldout_bytes, config.seed)
    progress.update(1, step="copies", **{name: count for name, count in removed.items() if count})

    if tokenizer is None:
        tokenizer = train_tokenizer((document.text for document in train), config.vocabulary, config.end_token)
    _write_tokenizer(config, tokenizer, folder / "tokenizer.json")
    progress.update(1, step="tokenizer")

    counts: dict[str, Any] = {
        "vocabulary": vocabulary_size(tokenizer),
        "end_of_document": end_of_document(tokenizer, config.end_token),
        "end_token": config.end_token,
        **removed,
        "rejected_rows": len(source.rejected) + len(heldout.rejected),
        "by_kind": by_kind(train),
        "heldout_overlap": float(np.mean(overlap([d.text for d in held], [d.text for d in train]))),
    }
    for name, documents in (("train", train), ("heldout", held)):
        sequences = encode(tokenizer, [document.text for document in documents], config.end_token)
        write_tokens(folder / "tokens", name, sequences, lengths=True)
        counts[name] = _counts(documents, sequences)
    write_rejected(folder / "rejected.jsonl", [*heldout.rejected, *source.rejected])
    write_json(folder / "packages.json", {"source": source.packages, "heldout": heldout.packages})
    write_json(folder / "counts.json", counts)
    progress.update(1, step="tokens", tokens=counts["train"]["tokens"])


def _share(heldout: str) -> float | None:
    """The fraction that "5%" names; None for the name of a source."""
    if not heldout.endswith("%"):
        return None
    try:
        share = float(heldout[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SourceError(f"heldout is {heldout!r}; a share lies between 0% and 100%, or name a source")
    return share


def check_numbers(vocabulary: int, near: float) -> None:
    """Refuses, before any source is read, a vocabulary or similarity that would fail afterwards."""
    if vocabulary < 257:
        raise SourceError(f"vocabulary is {vocabulary}; 256 bytes and the end-of-document token make 257 or more")
    if not 0.5 <= near <= 1:
        raise SourceError(f"near is {near}; the search for near-copies serves similarities of 0.5 to 1")


def write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    """Writes one JSON object a rejection: file, line, reason."""
    write_text(path, "".join(json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in rejected))


def _write_tokenizer(config: CorpusConfig, tokenizer: Tokenizer, path: Path) -> None:
    with atomic(path) as temporary:
        if config.tokenizer is None:
            tokenizer.save(str(temporary))
        else:
            shutil.copyfile(config.tokenizer, temporary)


def _counts(documents: Sequence[Document], sequences: Sequence[np.ndarray]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "groups": len({document.group for document in documents}),
        "bytes": sum(len(document.text.encode()) for document in documents),
        "tokens": sum(map(len, sequences)),
    }
