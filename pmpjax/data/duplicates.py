"""Copies of texts: exact ones by a normalised hash, near-duplicates by MinHash and an exact check."""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pmpjax.data.documents import Document, SourceError, digest

SHINGLE = 5
"""Words in a shingle; a shorter text is one shingle."""

_BANDS, _ROWS = 24, 3
"""Two texts of Jaccard similarity s share a band with probability 1 - (1 - s^3)^24: 0.99996 at 0.7, 0.47 at 0.3."""

EXACT, NEAR = 1, 2


class Copies(NamedTuple):
    """What `find_copies` found for each text.

    Fields:
        kind: [N] int8: 0 not a copy, `EXACT` or `NEAR`.
        original: [N] int64: the earlier text that it is a copy of, -1 where it is none.
    """

    kind: np.ndarray
    original: np.ndarray


class Shingles(NamedTuple):
    """Sets of hashed shingles: those of text i are `values[starts[i]:starts[i + 1]]`, sorted, each once."""

    values: np.ndarray
    starts: np.ndarray


def normalised(text: str) -> str:
    """The text with case, white space and nothing else made equal.

    >>> normalised("One\\n  TWO ")
    'one two'
    """
    return " ".join(text.lower().split())


def shingles(texts: Sequence[str]) -> Shingles:
    """The hashed 5-word shingles of each text (words: what white space separates, in lower case), 64 bits each.

    >>> np.diff(shingles(["a b c d e f", "a b", "a b c d e a b c d e"]).starts)
    array([2, 1, 5])
    """
    seen: dict[str, int] = {}
    words: list[int] = []
    lengths = np.zeros(len(texts), np.int64)
    for index, text in enumerate(texts):
        parts = text.lower().split()
        lengths[index] = max(len(parts), 1)
        for part in parts or [""]:
            value = seen.get(part)
            if value is None:
                data = part.encode("utf-8", "surrogatepass")
                value = seen[part] = zlib.crc32(data) << 32 | zlib.adler32(data)
            words.append(value)
    hashed = np.asarray(words, np.uint64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    document = np.repeat(np.arange(len(texts)), lengths)
    # A word near the end of its text has no full shingle behind it; the texts shorter than one keep their first.
    place = np.arange(len(hashed)) - first[document]
    mixed = np.zeros(len(hashed), np.uint64)
    for offset in range(SHINGLE):
        inside = place + offset < lengths[document]
        following = np.where(inside, hashed[np.minimum(np.arange(len(hashed)) + offset, len(hashed) - 1)], np.uint64(0))
        mixed = splitmix64(mixed ^ following)
    full = place <= np.maximum(lengths[document] - SHINGLE, 0)
    mixed, document = mixed[full], document[full]
    order = np.lexsort((mixed, document))
    mixed, document = mixed[order], document[order]
    fresh = np.ones(len(mixed), bool)
    fresh[1:] = (mixed[1:] != mixed[:-1]) | (document[1:] != document[:-1])
    mixed, document = mixed[fresh], document[fresh]
    return Shingles(mixed, np.searchsorted(document, np.arange(len(texts) + 1)))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted arrays without repetitions, not both empty."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def signatures(sets: Shingles, bands: int = _BANDS, rows: int = _ROWS) -> np.ndarray:
    """m[i, b] = a hash of the minima of `rows` random permutations over the set of text i, [N, bands] uint64.

    Two texts agree in one permutation's minimum with probability equal to their Jaccard similarity (Broder, 1997).
    """
    generator = np.random.Generator(np.random.PCG64(0))  # the permutations belong to the method, not to the run's seed
    result = np.zeros((len(sets.starts) - 1, bands), np.uint64)
    for band in range(bands):
        for _ in range(rows):
            factor, shift = generator.integers(0, 2**64, size=2, dtype=np.uint64)
            permuted = (sets.values * (factor | np.uint64(1)) + shift) >> np.uint64(16)
            result[:, band] = splitmix64(result[:, band] ^ np.minimum.reduceat(permuted, sets.starts[:-1]))
    return result


def find_copies(texts: Sequence[str], threshold: float = 0.7) -> Copies:
    """For each text, the earlier one that it copies: the same after `normalised`, or Jaccard of shingles >= threshold.

    Copies of copies count only when they are near-duplicates of a text that is no copy itself: no two kept texts are.
    Pairs are proposed by banded MinHash (which misses 1 in 20,000 at the default threshold) and then decided exactly.

    >>> copies = find_copies(["a b c d e f g h", "x", "A  b c d e f g h", "a b c d e f g h i"])
    >>> copies.kind, copies.original
    (array([0, 0, 1, 2], dtype=int8), array([-1, -1,  0,  0]))
    """
    if not 0.5 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; MinHash finds pairs of similarity 0.5 to 1")
    count = len(texts)
    kind, original = np.zeros(count, np.int8), np.full(count, -1, np.int64)
    if count == 0:
        return Copies(kind, original)
    sets = shingles(texts)
    bands = signatures(sets).tolist()
    exact: dict[str, int] = {}
    buckets: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
    for index in range(count):
        first = exact.setdefault(digest(normalised(texts[index])), index)
        if first != index:
            # A copy of a near-duplicate is an exact copy too, but its original is the text that was kept.
            kind[index], original[index] = EXACT, first if original[first] < 0 else original[first]
            continue
        mine = sets.values[sets.starts[index] : sets.starts[index + 1]]
        candidates = {other for band, key in enumerate(bands[index]) for other in buckets[band].get(key, ())}
        for other in sorted(candidates):
            theirs = sets.values[sets.starts[other] : sets.starts[other + 1]]
            small, large = sorted((len(mine), len(theirs)))
            if small >= threshold * large and jaccard(mine, theirs) >= threshold:
                kind[index], original[index] = NEAR, other
                break
        else:
            for band, key in enumerate(bands[index]):
                buckets[band].setdefault(key, []).append(index)
    return Copies(kind, original)


class Deduplicated(NamedTuple):
    """What `deduplicate` left of each set, and what it took out.

    Fields:
        kept: by set, in the order given.
        copies: copies[a][b] = documents of set a that were taken out as copies of one of set b.
        exact: the same of exact copies alone.
    """

    kept: dict[str, list[Document]]
    copies: dict[str, dict[str, int]]
    exact: dict[str, dict[str, int]]


def deduplicate(sets: Mapping[str, Sequence[Document]], threshold: float) -> Deduplicated:
    """Takes copies out of sets of documents, inside each and between them: the set that is named first keeps the text.

    Raises `SourceError` where nothing is left of a set.

    >>> one, two = Document("1", "same words", "", ""), Document("2", "other words", "", "")
    >>> found = deduplicate({"heldout": [one], "source": [one, two]}, 0.7)
    >>> [document.id for document in found.kept["source"]], found.copies["source"]
    (['2'], {'heldout': 1, 'source': 0})
    """
    names = list(sets)
    documents = [document for part in sets.values() for document in part]
    found = find_copies([document.text for document in documents], threshold)
    member = np.repeat(np.arange(len(names)), [len(part) for part in sets.values()])
    copies = np.zeros((2, len(names), len(names)), np.int64)
    for layer, chosen in enumerate((found.kind > 0, found.kind == EXACT)):
        np.add.at(copies[layer], (member[chosen], member[found.original[chosen]]), 1)
    kept = {
        name: [documents[i] for i in np.flatnonzero((member == number) & (found.kind == 0))]
        for number, name in enumerate(names)
    }
    tables = [
        {name: dict(zip(names, map(int, row), strict=True)) for name, row in zip(names, layer, strict=True)}
        for layer in copies
    ]
    for name, part in kept.items():
        if not part:
            raise SourceError(
                f"nothing is left of {name} when copies are removed ({tables[0][name]}); "
                "name a source that does not hold the target, or a target of more documents"
            )
    return Deduplicated(kept, *tables)


def overlap(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """For each text, the share of its shingles that occur anywhere in `others`, [N] float64."""
    if not texts:
        return np.zeros(0)
    sets = shingles(texts)
    known = np.isin(sets.values, shingles(others).values) if others else np.zeros(len(sets.values), bool)
    return np.add.reduceat(known, sets.starts[:-1], dtype=np.float64) / np.diff(sets.starts)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of 64-bit integers in which each bit of the result depends on all."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
