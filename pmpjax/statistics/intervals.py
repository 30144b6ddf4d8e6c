"""Means over seeds and paired differences, with their 95% intervals."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """mean, and the half-width of its 95% interval (Student's t; None for fewer than two values)."""

    mean: float
    half_width: float | None


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
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


def paired_difference(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """one_s - other_s over seeds s: the values, their mean, and its 95% interval (None below two seeds).

    >>> found = paired_difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    >>> found["values"], found["mean"], [round(end, 3) for end in found["interval"]]
    ([-1.0, -2.0, -3.0], -2.0, [-4.484, 0.484])
    """
    values = [float(a - b) for a, b in zip(one, other, strict=True)]
    mean, half = estimate(values)
    return {"values": values, "mean": mean, "interval": None if half is None else [mean - half, mean + half]}
