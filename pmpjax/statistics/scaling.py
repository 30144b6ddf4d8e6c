"""Scores on one scale, without their long tails."""

import numpy as np
from jaxtyping import Float

REACH = 3.0
"""Deviations from the median at which scores are clipped before they are compared: AdamW's have tails of forty."""


def standardised(scores: Float[np.ndarray, " instances"]) -> Float[np.ndarray, " instances"]:
    """(c(s) - mean) / sd of the clipped scores c(s) (`clipped` at `REACH`); 0 where all are equal.

    >>> standardised(np.array([1.0, 2.0, 3.0])).round(2).tolist()
    [-1.22, 0.0, 1.22]
    """
    kept = clipped(scores, scores, REACH)
    return (kept - kept.mean()) / (kept.std() or 1.0)


def clipped(
    scores: Float[np.ndarray, " instances"], reference: Float[np.ndarray, " some"], deviations: float
) -> Float[np.ndarray, " instances"]:
    """min(max(s, m - c d), m + c d), m the median of `reference` and d half of what its middle 68% span: for a normal
    distribution its standard deviation, which single scores do not move. Scores stay as they are where d = 0.

    >>> scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -1000.0])
    >>> clipped(scores, scores, 3.0).round(1).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -3.7]
    """
    low, centre, high = np.quantile(reference, [0.1587, 0.5, 0.8413])
    reach = deviations * (high - low) / 2
    return np.clip(scores, centre - reach, centre + reach) if reach > 0 else scores
