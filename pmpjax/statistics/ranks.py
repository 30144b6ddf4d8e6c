"""Agreement of two orders."""

from typing import Any

import numpy as np
from scipy import stats


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, ties sharing theirs; [M], [M] -> scalar in [-1, 1].

    None where it is not defined: fewer than three values, or one side constant.

    >>> rank_correlation(np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 30.0]))
    1.0
    >>> rank_correlation(np.ones(3), np.arange(3.0)) is None
    True
    """
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    result: Any = stats.spearmanr(a, b)
    return float(result.statistic)
