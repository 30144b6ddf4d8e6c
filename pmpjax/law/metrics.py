"""What a policy achieves: acceleration ratio, area under the curve, spread of the contributions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pmpjax.statistics import speedup


def acceleration_ratio(optimised: ArrayLike, baseline: ArrayLike) -> float | None:
    """AR = T / min{t : J_opt(t) <= J_base(T)} (Learning Law, arXiv 2402.17759); None where J_opt never gets there.

    `baseline` has T + 1 entries, J at theta_0 .. theta_T; `optimised` the same or fewer (its first ones). A threshold
    crossing: it jumps between sweeps, while the area under the curve is what is optimised. Report both.

    >>> acceleration_ratio([4.0, 2.0, 1.0, 1.0, 0.5], [4.0, 3.0, 2.5, 2.0, 1.5])
    2.0
    """
    optimised, baseline = np.asarray(optimised), np.asarray(baseline)
    return speedup(np.arange(len(baseline)), optimised, baseline, window=1, interpolate=False).ratio


def area_under_curve(curve: ArrayLike) -> float:
    """sum_{t=0..T} J(theta_t): a plain sum of T + 1 terms, as `pmpjax.area_under`; no division.

    >>> area_under_curve([2.0, 1.0, 0.5])
    3.5
    """
    return float(np.sum(np.asarray(curve), dtype=np.float64))


def spread(seen: np.ndarray | Sequence[Any]) -> float:
    """sum_t used_t / sum_t scale_t of a stacked `pmpjax.Spread` [3, steps]: how unequal the contributions are.

    used_t = sqrt(sum_n g_n (q_n - m)^2 / sum_n g_n), m = sum_n g_n q_n / sum_n g_n, with g the policy's weights at step
    t and q the contributions: a standard deviation weighted by use, hence over the examples that are used. scale_t is
    the root mean square of q over all examples, used or not. Sums over the recorded steps come before the division, so
    that late steps, whose contributions are nearly zero, do not dominate. No unit: the learning rate cancels.

    Two of them are reported, and they are not the same statement:

    - `kkt_spread`: along the costate, q_n = eta <lambda_{t+1}, grad l_n(theta_t)> = -dJ/dg_{n,t}. Zero where the
      (discrete-time) optimality conditions hold on the support.
    - `law_spread`: along the desired gradient, q_n = eta <grad J(theta_t), grad l_n(theta_t)>. Zero on the
      optimal path in continuous time (the Learning Law); in discrete time only nearly so.

    >>> spread([[1.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    0.25
    """
    used, _, scale = np.asarray(seen, dtype=np.float64)
    return float(used.sum() / scale.sum()) if scale.sum() > 0 else 0.0
