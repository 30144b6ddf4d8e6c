"""Origins of documents: of what kind a text is, by the one reading of "package:kind:place" and "file:line"."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pmpjax.data.documents import Document

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
