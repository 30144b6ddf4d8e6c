"""The Gumbel top-r under a budget of tokens: in memory, and exactly the same over a corpus of any size in passes."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

SMALL = 16
"""Up to so many groups a pass settles 16 bits of a cut, and for more of them 8: one table of tokens a group."""


class Documents(NamedTuple):
    """Consecutive documents of a corpus.

    Fields:
        score: [D] float64.
        tokens: [D] int64.
        group: [D] int64, 0 or more: what shares are capped by.
    """

    score: np.ndarray
    tokens: np.ndarray
    group: np.ndarray


Passes = Callable[[], Iterable[Documents]]
"""A corpus that can be read again and again, in parts; neither their sizes nor their number change any result."""


class Corpus(NamedTuple):
    """What standardises scores: sizes of a corpus, mean and population standard deviation, rounded once.

    Fields:
        documents, tokens, groups: counts.
        mean, deviation: of the scores; the deviation is 0 when all are equal, and then alone.
    """

    documents: int
    tokens: int
    groups: int
    mean: float
    deviation: float


class Chosen(NamedTuple):
    """Chosen documents: index in the corpus, score, tokens, and z + tau g, by which the highest come first."""

    position: np.ndarray
    score: np.ndarray
    tokens: np.ndarray
    value: np.ndarray


class _Ranked(NamedTuple):
    """Documents with `rank`, a whole number of 64 bits that grows with z + tau g."""

    position: np.ndarray
    documents: Documents
    rank: np.ndarray

    def take(self, mask: np.ndarray) -> "_Ranked":
        return _Ranked(self.position[mask], Documents(*(column[mask] for column in self.documents)), self.rank[mask])


def gumbel_noise(key: Array, first: int, count: int) -> Float[np.ndarray, " documents"]:
    """g of documents `first` to `first + count`, standard Gumbel: a function of key and position (Philox), float64.

    >>> bool((gumbel_noise(jax.random.key(0), 0, 9)[5:] == gumbel_noise(jax.random.key(0), 5, 4)).all())
    True
    """
    words = int.from_bytes(np.asarray(jax.random.key_data(key)).tobytes(), "little")
    skipped = first % 4  # a step of the counter gives four words
    bits = np.random.Philox(key=words, counter=first // 4).random_raw(count + skipped)[skipped:]
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # neither 0 nor 1
    return -np.log(-np.log(uniform))


def measure(passes: Passes) -> Corpus:
    """Sizes, mean and deviation of a corpus in three passes; sums are exact, so that no cut into parts can show.

    Raises:
        ValueError: for no document, or a score that is not finite, with how many and the first one's index.
    """
    documents = tokens = groups = bad = 0
    first_bad, low, high = 0, math.inf, -math.inf
    for part in passes():
        finite = np.isfinite(part.score)
        if not bad and not finite.all():
            first_bad = documents + int(np.argmin(finite))
        bad += int((~finite).sum())
        documents, tokens = documents + len(part.score), tokens + int(part.tokens.sum())
        if len(part.score):
            groups = max(groups, int(part.group.max()) + 1)
            low, high = min(low, float(part.score.min())), max(high, float(part.score.max()))
    if not documents:
        raise ValueError("there is no document to choose from; give a larger source")
    if bad:
        raise ValueError(
            f"{bad} scores are not finite, the first of document {first_bad}; lower the rates of solve or fit"
        )
    if low == high:
        return Corpus(documents, tokens, groups, low, 0.0)
    try:
        mean = math.fsum(_each(part.score for part in passes())) / documents
        squares = ((part.score - mean) ** 2 for part in passes())
        with np.errstate(over="ignore"):
            deviation = math.sqrt(math.fsum(_each(squares)) / documents)
    except OverflowError:
        deviation = math.inf
    if not 0 < deviation < math.inf:
        raise ValueError(f"scores from {low:g} to {high:g} have no standard deviation in float64; rescale them")
    return Corpus(documents, tokens, groups, mean, deviation)


def _each(parts: Iterable[np.ndarray]) -> Iterator[float]:
    return itertools.chain.from_iterable(part.tolist() for part in parts)


def _values(score: np.ndarray, corpus: Corpus, temperature: float, key: Array, first: int) -> np.ndarray:
    standard = (score - corpus.mean) / (corpus.deviation or 1.0)
    noise = temperature * gumbel_noise(key, first, len(score)) if temperature else 0.0
    return standard + noise + 0.0  # no -0, whose bits are not those of 0


def gumbel_order(scores: np.ndarray, temperature: float, key: Array) -> Int[np.ndarray, " documents"]:
    """Documents by z + tau g, highest first, with z the standardised scores and g ~ Gumbel(0, 1): [D] indices.

    The first r of them are r draws without replacement with odds proportional to exp(z / tau). Equal ones keep their
    order.

    Raises:
        ValueError: for a score that is not finite.

    Source: PDS (arXiv 2410.07064), section 2.3, the Gumbel top-r selection.
    """
    scores = np.asarray(scores, np.float64)
    zeros = np.zeros(len(scores), np.int64)
    corpus = measure(lambda: [Documents(scores, zeros, zeros)])
    return np.argsort(-_values(scores, corpus, temperature, key, 0), kind="stable")


def within_budget(order: np.ndarray, tokens: np.ndarray, budget: int | float) -> np.ndarray:
    """The longest prefix of `order` whose documents hold at most `budget` tokens; at least one document.

    >>> within_budget(np.array([2, 0, 1]), np.array([5, 1, 3]), 8)
    array([2, 0])
    """
    return order[: max(1, int(np.searchsorted(np.cumsum(tokens[order]), budget, side="right")))]


def gumbel_selection(
    passes: Passes, corpus: Corpus, key: Array, *, temperature: float, budget: float, share: float = 1.0
) -> Iterator[Chosen]:
    """The documents of `within_budget(gumbel_order(...))` in the order of the corpus, one batch of it in memory.

    The document at which the budget ends is found in passes: each one adds up tokens by the next bits of z + tau g.

    Args:
        corpus: `measure(passes)`.
        budget: tokens of the selection.
        share: no group holds more than this share of the budget: its documents are passed over from the first one on
            that would bring it above. Below 1 this takes the passes a second time.
    """

    def ranked() -> Iterator[_Ranked]:
        first = 0
        for part in passes():
            values = _values(part.score, corpus, temperature, key, first)
            yield _Ranked(np.arange(first, first + len(values)), part, _rank(values))
            first += len(values)

    def capped() -> Iterator[_Ranked]:
        return ranked() if closing is None else _before(ranked(), closing, lambda part: part.group)

    def together(part: Documents) -> np.ndarray:
        return np.zeros(len(part.tokens), np.int64)

    closing = None if share >= 1 else _cut(ranked, corpus.groups, share * budget, lambda part: part.group)
    end = _cut(capped, 1, budget, together)
    found = False
    for part in _before(capped(), end, together):
        if len(part.rank):
            found = True
            yield _chosen(part)
    if not found:  # the budget holds no document: one is chosen all the same
        yield _chosen(_first(ranked()))


class _Cut(NamedTuple):
    """rank: [G] of the document at which each group ends. left: [G] tokens for those of this very rank."""

    rank: np.ndarray
    left: np.ndarray


def _cut(
    passes: Callable[[], Iterator[_Ranked]], groups: int, budget: float, group_of: Callable[[Documents], np.ndarray]
) -> _Cut:
    """The rank at which each group's tokens, added up from the highest rank on, exceed the budget."""
    width = 16 if groups <= SMALL else 8
    rank, left = np.zeros(groups, np.uint64), np.full(groups, math.floor(budget), np.int64)
    for shift in range(64 - width, -1, -width):
        table = np.zeros((groups, 1 << width), np.int64)
        for part in passes():
            group = group_of(part.documents)
            settled = np.uint64(shift + width)
            # A shift by all 64 bits is not defined: in the first pass nothing is settled.
            open_ = np.ones(len(group), bool) if settled == 64 else (part.rank ^ rank[group]) >> settled == 0
            digit = (part.rank[open_] >> np.uint64(shift)).astype(np.int64) & ((1 << width) - 1)
            cell = (group[open_] << width) | digit
            counted = np.bincount(cell, part.documents.tokens[open_], minlength=table.size)
            table += counted.astype(np.int64).reshape(table.shape)
        falling = np.cumsum(table[:, ::-1], axis=1)
        over = falling > left[:, None]
        index = np.where(over.any(axis=1), over.argmax(axis=1), table.shape[1] - 1)
        digit = table.shape[1] - 1 - index
        each = np.arange(groups)
        left -= falling[each, index] - table[each, digit]
        rank |= digit.astype(np.uint64) << np.uint64(shift)
    return _Cut(rank, left)


def _before(parts: Iterable[_Ranked], cut: _Cut, group_of: Callable[[Documents], np.ndarray]) -> Iterator[_Ranked]:
    """Documents in front of their group's cut; of equal ones at it, the first that fit."""
    left = cut.left.copy()
    for part in parts:
        group = group_of(part.documents)
        kept = part.rank > cut.rank[group]
        tied = np.flatnonzero(part.rank == cut.rank[group])
        for one in np.unique(group[tied]):
            own = tied[group[tied] == one]
            spent = np.cumsum(part.documents.tokens[own])
            fitting = spent <= left[one]
            kept[own] = fitting
            left[one] = left[one] - spent[-1] if fitting.all() else -1
        yield part.take(kept)


def _first(parts: Iterable[_Ranked]) -> _Ranked:
    best = None
    for part in parts:
        top = part.take(np.arange(len(part.rank)) == np.argmax(part.rank)) if len(part.rank) else part
        if len(top.rank) and (best is None or top.rank[0] > best.rank[0]):
            best = top
    assert best is not None
    return best


def _chosen(part: _Ranked) -> Chosen:
    return Chosen(part.position, part.documents.score, part.documents.tokens, _value(part.rank))


_SIGN = np.uint64(1 << 63)


def _rank(values: np.ndarray) -> np.ndarray:
    """IEEE 754 numbers order as whole numbers do when the sign's bit is turned, and all bits of negative ones."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value(rank: np.ndarray) -> np.ndarray:
    return np.where(rank & _SIGN, rank ^ _SIGN, ~rank).view(np.float64)
