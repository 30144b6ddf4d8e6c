"""How often a chosen document comes in one pass over a selection, by its rank."""

import numpy as np
from jaxtyping import Float, Int


def rank_weights(tokens: Int[np.ndarray, " chosen"], slope: float = 1.0) -> Float[np.ndarray, " chosen"]:
    """w_n = 1 + slope (1 - 2 F_n): F_n is the share of the chosen tokens chosen before the middle of document n.

    By tokens their mean is 1, so a pass has as many tokens as before.

    A score is a derivative in the weights: a step along it gives documents of higher score more weight, and each
    repetition lowers the score of the next one. The paper's projection on the simplex would weight by the scores
    themselves; weights by rank do the same whatever tails the scores have.

    Args:
        tokens: of documents in the order of choice.
        slope: in [0, 1]; 1 is from twice to not at all.

    >>> rank_weights(np.array([1, 2, 1])).tolist()
    [1.75, 1.0, 0.25]
    >>> rank_weights(np.array([1, 2, 1]), slope=0.5).tolist()
    [1.375, 1.0, 0.625]
    """
    before = np.cumsum(tokens) - tokens / 2
    return 1 + slope * (1 - 2 * before / max(1, int(np.sum(tokens))))


def repetitions_by_rank(
    tokens: Int[np.ndarray, " chosen"], budget: float, offset: float, slope: float = 1.0
) -> Int[np.ndarray, " chosen"]:
    """How often each document comes in one pass: `systematic_rounding` of its `rank_weights`.

    Where rounding would exceed `budget` tokens, the last documents are left out; the first always comes.

    >>> repetitions_by_rank(np.array([1, 1, 1, 1]), budget=4.0, offset=0.5).tolist()
    [2, 1, 1, 0]
    """
    count = systematic_rounding(rank_weights(tokens, slope), offset)
    count[np.cumsum(count * tokens) > budget] = 0
    count[:1] = np.maximum(count[:1], 1)
    return count


def systematic_rounding(weights: Float[np.ndarray, " chosen"], offset: float) -> Int[np.ndarray, " chosen"]:
    """k_n = floor(W_n + offset) - floor(W_{n-1} + offset), W_n = w_1 + ... + w_n: w_n rounded down or up.

    Over an offset drawn evenly from [0, 1) the expectation of each k_n is w_n (systematic sampling), and any first n of
    them together are within one of W_n.

    >>> systematic_rounding(np.array([1.75, 1.0, 0.25]), offset=0.5).tolist()
    [2, 1, 0]
    """
    ends = np.floor(np.cumsum(weights) + offset).astype(np.int64)
    return np.diff(ends, prepend=0)
