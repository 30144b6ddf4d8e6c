"""The Gumbel top-r under a budget of tokens, in one pass over a corpus of any size."""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

CHUNK = 65_536
"""Scores that are Python numbers at the same time while they are added up exactly."""


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


class Scale(NamedTuple):
    """Mean and population standard deviation of a corpus's scores; the deviation is 0 when all are equal."""

    mean: float
    deviation: float


class Chosen(NamedTuple):
    """Chosen documents: index in the corpus, score, tokens, group, and z + tau g, by which the highest come first."""

    position: np.ndarray
    score: np.ndarray
    tokens: np.ndarray
    group: np.ndarray
    value: np.ndarray

    def take(self, index: np.ndarray) -> "Chosen":
        """Those that an index or a mask names."""
        return Chosen(*(column[index] for column in self))


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


def measure(scores: Float[np.ndarray, " documents"]) -> Scale:
    """mean = sum_d s_d / D, deviation = sqrt(sum_d (s_d - mean)^2 / D), with exact sums (`math.fsum`).

    An exact sum does not depend on the order of its terms, so the same scores always give the same selection.

    Raises:
        ValueError: no score, one that is not finite (with how many and the first one's index), or a spread that
            float64 cannot hold.

    >>> measure(np.array([1.0, 3.0]))
    Scale(mean=2.0, deviation=1.0)
    """
    if not len(scores):
        raise ValueError("there is no document to choose from; give a larger source")
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(
            f"{len(bad)} scores are not finite, the first of document {bad[0]}; lower the rates of solve or fit"
        )
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return Scale(low, 0.0)
    try:
        mean = _exact_sum(scores) / len(scores)
        with np.errstate(over="ignore"):
            deviation = math.sqrt(_exact_sum((scores - mean) ** 2) / len(scores))
    except OverflowError:
        deviation = math.inf
    if not 0 < deviation < math.inf:
        raise ValueError(f"scores from {low:g} to {high:g} have no standard deviation in float64; rescale them")
    return Scale(mean, deviation)


def gumbel_selection(
    parts: Iterable[Documents],
    scale: Scale,
    key: Array,
    *,
    temperature: float,
    budget: float,
    share: float = 1.0,
) -> Chosen:
    """The longest prefix within `budget` tokens of the documents by z_d + tau g_d, highest first; at least one.

    z = (s - mean) / deviation, g ~ Gumbel(0, 1), equal values in the order of the corpus. The first r documents are r
    draws without replacement with odds proportional to exp(z / tau).

    One pass: each part is sorted together with what is kept, and of that the prefix within the budget stays, with the
    first document that does not fit. That one stops all behind it, now and later, so the result is exact whatever the
    sizes of the parts. Memory: a part and the selection. With a cap what is kept is a prefix of each group instead
    (a later document may push another one of its group out, and make room for one of another group), up to
    `share * budget` tokens and a document for each group.

    Args:
        parts: the corpus in its order. scale: `measure` of all its scores.
        temperature: tau; 0 keeps the highest scores.
        budget: tokens of the selection.
        share: no group holds more than this share of the budget: its documents are left out from the first one on that
            would exceed it.

    Source: PDS (arXiv 2410.07064), section 2.3.
    """
    capped, kept, first = share < 1, [], 0
    for part in parts:
        value = (part.score - scale.mean) / (scale.deviation or 1.0)
        if temperature:
            value = value + temperature * gumbel_noise(key, first, len(value))
        both = [*kept, Chosen(np.arange(first, first + len(value)), *part, value)]
        best = _sorted(Chosen(*(np.concatenate(column) for column in zip(*both, strict=True))))
        group, limit = (best.group, share * budget) if capped else (np.zeros_like(best.group), budget)
        kept, first = [best.take(_running_tokens(best.tokens, group) - best.tokens <= limit)], first + len(value)
    (best,) = kept
    fitting = best.take(_running_tokens(best.tokens, best.group) <= share * budget) if capped else best
    fitting = fitting.take(np.cumsum(fitting.tokens) <= budget)
    return fitting if len(fitting.tokens) else best.take(np.arange(1))


def _sorted(found: Chosen) -> Chosen:
    return found.take(np.argsort(-found.value, kind="stable"))


def _running_tokens(
    tokens: Int[np.ndarray, " documents"], group: Int[np.ndarray, " documents"]
) -> Int[np.ndarray, " documents"]:
    """Tokens of the documents of the same group up to each one, itself among them."""
    order = np.argsort(group, kind="stable")
    total, named = np.cumsum(tokens[order]), group[order]
    begin = np.searchsorted(named, named)  # where each one's group begins
    running = np.empty_like(total)
    running[order] = total - total[begin] + tokens[order][begin]
    return running


def _exact_sum(values: np.ndarray) -> float:
    chunks = (values[first : first + CHUNK].tolist() for first in range(0, len(values), CHUNK))
    return math.fsum(itertools.chain.from_iterable(chunks))
