"""Loss curves compared: how many steps one run needs for what another one ends with."""

from typing import NamedTuple

import numpy as np


def smooth(values: np.ndarray, window: int = 3) -> np.ndarray:
    """Centred moving average over `window` (odd) points, symmetric and so narrower towards both ends.

    A straight line stays as it is, its ends included: the last point of a falling curve is not raised.

    >>> smooth(np.array([0.0, 3.0, 0.0, 3.0]), 3).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}; it is centred, so it must be odd and positive")
    values = np.asarray(values, float)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    half = np.minimum(np.minimum(index, len(values) - 1 - index), window // 2)
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def steps_to_reach(steps: np.ndarray, losses: np.ndarray, level: int | float, window: int = 3) -> float | None:
    """min {t : loss(t) <= level} on the smoothed curve, linear between its points; None when it is never that low.

    >>> steps_to_reach(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), 3.0, window=1)
    5.0
    >>> steps_to_reach(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), 0.5) is None
    True
    """
    curve = smooth(losses, window)
    if not np.isfinite(curve).all():
        raise ValueError(f"the curve has {int((~np.isfinite(curve)).sum())} values that are not finite; lower the step")
    below = np.flatnonzero(curve <= level)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return float(steps[0])
    share = (curve[after - 1] - level) / (curve[after - 1] - curve[after])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


class Speedup(NamedTuple):
    """steps: needed for the other run's final loss, None when never. total: steps of that run. ratio: total / steps."""

    steps: float | None
    total: int
    ratio: float | None


def speedup(steps: np.ndarray, selected: np.ndarray, baseline: np.ndarray, window: int = 3) -> Speedup:
    """total / min {t : selected(t) <= baseline(total)}, both on the smoothed curve over one grid of steps.

    >>> speedup(np.array([0, 10, 20]), np.array([4.0, 2.0, 1.0]), np.array([4.0, 3.0, 2.0]), window=1)
    Speedup(steps=10.0, total=20, ratio=2.0)
    """
    level = float(smooth(baseline, window)[-1])
    total = int(steps[-1])
    needed = steps_to_reach(steps, selected, level, window)
    return Speedup(needed, total, None if needed is None else total / max(needed, 1e-9))
