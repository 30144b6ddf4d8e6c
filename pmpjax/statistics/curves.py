"""Loss curves compared: the steps that one run needs to reach the loss that another one ends with."""

from typing import NamedTuple

import numpy as np


def smooth(values: np.ndarray, window: int = 3) -> np.ndarray:
    """Centred moving average over `window` (odd) points, symmetric and so narrower towards both ends.

    A straight line stays as it is, its ends included: the last point of a decreasing curve is not raised.

    >>> smooth(np.array([0.0, 3.0, 0.0, 3.0]), 3).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}; it is centred, so it must be odd and positive")
    values = np.asarray(values, float)
    if window == 1:
        return values  # without the rounding of sums
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    half = np.minimum(np.minimum(index, len(values) - 1 - index), window // 2)
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def steps_to_reach(
    steps: np.ndarray, losses: np.ndarray, level: int | float, window: int = 3, *, interpolate: bool = True
) -> float | None:
    """min {t : loss(t) <= level} on the smoothed curve; None when it is never that low.

    Args:
        steps, losses: [M] both; there may be more steps than losses.
        interpolate: whether the curve is linear between its points; otherwise it has its points alone, and one that is
            not a number is not below any level.

    Raises:
        ValueError: where a curve to interpolate has values that are not finite.

    >>> steps_to_reach(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), 3.0, window=1)
    5.0
    >>> steps_to_reach(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), 3.0, window=1, interpolate=False)
    10.0
    >>> steps_to_reach(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), 0.5) is None
    True
    """
    curve = smooth(losses, window)
    if interpolate and not np.isfinite(curve).all():
        raise ValueError(f"the curve has {int((~np.isfinite(curve)).sum())} values that are not finite; lower the step")
    below = np.flatnonzero(curve <= level)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0 or not interpolate:
        return float(steps[after])
    share = (curve[after - 1] - level) / (curve[after - 1] - curve[after])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


class Speedup(NamedTuple):
    """steps: needed for the other run's final loss, None when never. total: steps of that run. ratio: total / steps."""

    steps: float | None
    total: int
    ratio: float | None


def speedup(
    steps: np.ndarray, selected: np.ndarray, baseline: np.ndarray, window: int = 3, *, interpolate: bool = True
) -> Speedup:
    """T / max(1, min {t : selected(t) <= baseline(T)}), both on the smoothed curve over one grid of steps 0..T.

    The speed-up of a selection (on curves measured every few steps), and with window 1 and without interpolation the
    acceleration ratio of a learning policy (on losses at each step).

    Source: PDS (arXiv 2410.07064); Learning Law (arXiv 2402.17759).

    >>> speedup(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), np.array([4.0, 3.0, 2.0]), window=1)
    Speedup(steps=10.0, total=20, ratio=2.0)
    """
    level = float(smooth(baseline, window)[-1])
    total = int(steps[-1])
    needed = steps_to_reach(steps, selected, level, window, interpolate=interpolate)
    return Speedup(needed, total, None if needed is None else total / max(needed, 1.0))
