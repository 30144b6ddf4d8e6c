"""The unit of selection: a document, and the reasons why a row or file does not become one."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

MAXIMUM_BYTES = 1_000_000
"""Longer documents are rejected: one of them would outweigh thousands of others and fill any buffer."""


class Document(NamedTuple):
    """A text and where it came from.

    Fields:
        id: unique in its source and the same in each reading of the same data.
        text: any Unicode text without lone surrogates, not blank, at most `MAXIMUM_BYTES` in UTF-8.
        origin: for people: "package:kind:place" of harvested text, "file:line" of files.
        group: what must not be torn apart when the source is split (a module, a file).
    """

    id: str
    text: str
    origin: str
    group: str


class Rejection(NamedTuple):
    """A row or file that did not become a document.

    Fields:
        file: where it was found, as the user wrote it or relative to the package.
        line: 1-based line (row for Parquet); 0 when the whole file is meant.
        reason: what was found and what was expected, for people.
    """

    file: str
    line: int
    reason: str


class SourceError(Exception):
    """A source that cannot be read at all or has no good row; the message ends with a hint."""


def no_good_row(name: str, rejected: Sequence[Rejection]) -> SourceError:
    """The error of a source in which nothing was good, with the first three reasons.

    >>> str(no_good_row("a.csv", [Rejection("a.csv", 2, "empty")]))
    'a.csv has no good row, the first bad ones are a.csv:2: empty; give one text a row'
    """
    reasons = "; ".join(f"{item.file}:{item.line}: {item.reason}" for item in rejected[:3])
    shown = f", the first bad ones are {reasons}" if reasons else ""
    return SourceError(f"{name} has no good row{shown}; give one text a row")


def digest(*parts: str | bytes) -> str:
    """A 128-bit fingerprint of some strings as 32 hexadecimal digits; the same everywhere, unlike `hash`.

    >>> digest("a", "b") == digest("a", b"b") != digest("ab")
    True
    """
    state = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def reject_reason(text: object, maximum_bytes: int = MAXIMUM_BYTES) -> str | None:
    """Why a value is no text of a document, None when it is one.

    >>> reject_reason("words"), reject_reason(" "), reject_reason(7)
    (None, 'empty', 'wrong type: expected text, found int')
    """
    if not isinstance(text, str):
        return f"wrong type: expected text, found {type(text).__name__}"
    if not text.strip():
        return "empty"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "not UTF-8: a lone surrogate"
    if size > maximum_bytes:
        return f"too long: {size} bytes, at most {maximum_bytes}"
    return None


def chunks(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Cuts long text into chunks of about `size` bytes, each with its 1-based first line; joined, they are the data.

    A chunk ends at the last line that fits, at a blank line where its second half has one, before an unindented line
    otherwise. A line is never cut, so that a chunk can be longer than `size` when a line is.

    >>> list(chunks(b"a\\nb\\n\\nc\\n", 6))
    [(1, b'a\\nb\\n\\n'), (4, b'c\\n')]
    """
    lines = data.splitlines(keepends=True)
    first = 0
    while first < len(lines):
        end, used = first, 0
        while end < len(lines) and (end == first or used + len(lines[end]) <= size):
            used += len(lines[end])
            end += 1
        if end < len(lines):
            half = first + max(1, (end - first) // 2)
            blank = [i for i in range(half, end) if not lines[i].strip()]
            plain = [i for i in range(half, end + 1) if lines[i][:1].strip()]
            end = blank[-1] + 1 if blank else plain[-1] if plain else end
        yield first + 1, b"".join(lines[first:end])
        first = end


def within_budget(documents: Sequence[Document], budget: int, seed: int) -> list[Document]:
    """Documents in the order of a seeded hash until `budget` bytes of text are spent; at least one.

    >>> len(within_budget([Document(str(i), "four", "", "") for i in range(5)], 9, seed=0))
    2
    """
    ordered = sorted(documents, key=lambda document: digest(str(seed), "sample", document.id))
    spent = np.cumsum([len(document.text.encode()) for document in ordered])
    return ordered[: max(1, int(np.searchsorted(spent, budget, side="right")))]
