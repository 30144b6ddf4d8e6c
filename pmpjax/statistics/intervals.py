"""95% intervals: of a mean over seeds, of a paired difference, and of any statistic of resampled units."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats


class Estimate(NamedTuple):
    """mean, and the half-width of its 95% interval (Student's t; None for fewer than two values)."""

    mean: float
    half_width: float | None

    @property
    def interval(self) -> list[float] | None:
        """[mean - half_width, mean + half_width], None below two values."""
        return None if self.half_width is None else [self.mean - self.half_width, self.mean + self.half_width]


def estimate(values: Sequence[float | int] | np.ndarray) -> Estimate:
    """mean +- t_{0.975, n-1} * sd / sqrt(n) over seeds.

    >>> estimate([1.0, 2.0, 3.0]).mean, round(estimate([1.0, 2.0, 3.0]).half_width, 3)
    (2.0, 2.484)
    """
    array = np.asarray(values, float)
    if not len(array):
        raise ValueError("no values to estimate from")
    if len(array) == 1:
        return Estimate(float(array[0]), None)
    error = array.std(ddof=1) / np.sqrt(len(array))
    return Estimate(float(array.mean()), float(stats.t.ppf(0.975, len(array) - 1) * error))


def paired_difference(one: Sequence[float | int], other: Sequence[float | int]) -> dict[str, Any]:
    """one_s - other_s over seeds s: the values, their mean, and its 95% interval (None below two seeds).

    >>> found = paired_difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    >>> found["values"], found["mean"], [round(end, 3) for end in found["interval"]]
    ([-1.0, -2.0, -3.0], -2.0, [-4.484, 0.484])
    """
    values = [float(a - b) for a, b in zip(one, other, strict=True)]
    found = estimate(values)
    return {"values": values, "mean": found.mean, "interval": found.interval}


def bootstrap(
    statistic: Callable[[Int[np.ndarray, "resamples units"]], Float[np.ndarray, " resamples"]],
    units: int,
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """(q_{0.025}, q_{0.975}) of T(b_1), ..., T(b_R), each b_r a draw of all units with replacement (percentile).

    Args:
        statistic: T of each row of indices of units.
        units: what is drawn whole: documents, queries, seeds.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    >>> values = np.arange(101.0)
    >>> low, high = bootstrap(lambda drawn: values[drawn].mean(axis=1), len(values))
    >>> bool(40 < low < 50 < high < 60)
    True
    """
    if units < 1:
        raise ValueError(f"bootstrap: {units} units, expected at least one to draw from")
    drawn = np.random.default_rng(seed).integers(0, units, (resamples, units))
    low, high = np.percentile(statistic(drawn), [2.5, 97.5])
    return float(low), float(high)
