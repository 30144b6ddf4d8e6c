"""Origins of documents: of what kind a text is, by the one reading of "package:kind:place" and "file:line"."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pmpjax.data.documents import Document
from pmpjax.data.prepared import DocumentTable

KINDS = ("docstring", "code", "readme", "changelog", "licence", "data")
"""The kinds of harvested text."""


class Origin(NamedTuple):
    """What a document's origin says.

    Fields:
        kind: one of `KINDS` for harvested text, the ending of a file ("txt"), or else the source ("story-grammar").
        package: of harvested text; None for anything else.
    """

    kind: str
    package: str | None = None


def parse_origin(origin: str) -> Origin:
    """Reads "package:kind:place" of harvested text, "file:line", or "source:file:line".

    >>> parse_origin("scipy:docstring:scipy.stats.norm"), parse_origin("notes/a.txt:3").kind
    (Origin(kind='docstring', package='scipy'), 'txt')
    >>> [parse_origin(text).kind for text in ("hf:owner/name/a.jsonl:3", "story-grammar:lost:0/1", "notes:3")]
    ['jsonl', 'story-grammar', 'other']
    """
    source, *rest = origin.split(":")
    if len(rest) == 2 and rest[0] in KINDS:
        return Origin(rest[0], source)
    named = len(rest) >= 2
    ending = PurePosixPath(rest[-2] if named else source).suffix.removeprefix(".")
    return Origin(ending or (source if named else "other"))


def by_kind(documents: Sequence[Document]) -> dict[str, dict[str, int]]:
    """Documents and bytes of each kind.

    >>> found = [Document("1", "four", "scipy:docstring:scipy.stats", ""), Document("2", "six", "a/b.txt:7", "")]
    >>> by_kind(found)["txt"]
    {'documents': 1, 'bytes': 3}
    """
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for document in documents:
        kind = parse_origin(document.origin).kind
        number[kind] += 1
        size[kind] += len(document.text.encode())
    return {kind: {"documents": number[kind], "bytes": size[kind]} for kind in sorted(number)}


def origin_groups(origins: Sequence[str] | np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " documents"]]:
    """The names of all groups in alphabetical order, and the number of each document's group among them.

    >>> names, group = origin_groups(["b.txt:1", "a.md:1", "c.txt:1"])
    >>> names.tolist(), group.tolist()
    (['md', 'txt'], [1, 0, 1])
    """
    names, group = np.unique([parse_origin(origin).kind for origin in origins], return_inverse=True)
    return names, group.astype(np.int64)


def origin_shares(table: DocumentTable, selected: np.ndarray) -> dict[str, dict[str, float]]:
    """Share of the tokens of each group of origins in the source and in the selection, largest of the source first.

    A document that is `selected` several times counts as often.
    """
    names, group = origin_groups(table.origins)
    chosen = table.n_tokens * np.bincount(selected, minlength=len(group))
    source, selection = (np.bincount(group, tokens) / float(tokens.sum()) for tokens in (table.n_tokens, chosen))
    shares = {
        str(name): {"source": float(of_source), "selection": float(of_selection)}
        for name, of_source, of_selection in zip(names, source, selection, strict=True)
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]["source"]))
