"""The scaling law of a loss curve."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares


class ScalingLaw(NamedTuple):
    """J(t) = L0 + (B / t)^beta; `r2` is the fraction of the variance of log J that it explains."""

    floor: float
    scale: float
    exponent: float
    r2: float

    def __call__(self, steps: ArrayLike) -> np.ndarray:
        """J at `steps` (each >= 1)."""
        return self.floor + (self.scale / np.asarray(steps, dtype=float)) ** self.exponent


def fit_scaling_law(curve: ArrayLike, first: int = 1, points: int = 200) -> ScalingLaw:
    """Fits J(t) = L0 + (B / t)^beta to `curve` [T + 1] (J at theta_0 .. theta_T), for t = first .. T.

    Least squares on log J at `points` steps that are even in log t (every decade counts alike), with L0 >= 0 and
    beta > 0, from several starting points (the problem is not convex). ValueError where fewer than 8 steps are left or
    where the curve has a value that is not positive and finite.

    >>> fitted = fit_scaling_law(0.1 + (3.0 / np.maximum(np.arange(1001), 1)) ** 0.7)
    >>> [round(float(value), 3) for value in fitted]
    [0.1, 3.0, 0.7, 1.0]
    """
    curve = np.asarray(curve, dtype=float)
    if len(curve) - first < 8:
        raise ValueError(f"a curve of {len(curve)} points has too few from step {first} on; expected at least 8")
    if not np.all(np.isfinite(curve) & (curve > 0)):
        bad = int(np.argmin(np.isfinite(curve) & (curve > 0)))
        raise ValueError(f"the curve is {curve[bad]} at step {bad}; the fit needs positive finite losses")
    steps = np.unique(np.round(np.geomspace(first, len(curve) - 1, points)).astype(int))
    target = np.log(curve[steps])
    log_steps = np.log(steps)

    def residual(theta: np.ndarray) -> np.ndarray:
        floor, log_scale, exponent = theta
        return np.log(floor + np.exp(exponent * (log_scale - log_steps))) - target

    ceiling = float(curve[steps].min())
    lower, upper = (0.0, -20.0, 1e-3), (ceiling, 20.0, 20.0)
    fits = [
        least_squares(residual, (share * ceiling, 0.0, exponent), bounds=(lower, upper), x_scale="jac")
        for share in (0.1, 0.9)
        for exponent in (0.3, 1.0)
    ]
    best = min(fits, key=lambda fit: fit.cost)
    floor, log_scale, exponent = best.x
    variance = float(np.sum((target - target.mean()) ** 2))
    r2 = 1 - 2 * best.cost / variance if variance > 0 else 1.0
    return ScalingLaw(float(floor), float(np.exp(log_scale)), float(exponent), float(r2))
