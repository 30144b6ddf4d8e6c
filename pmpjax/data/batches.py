"""Which instances a step sees: deterministic schedules of indices."""

import numpy as np


def batch_schedule(count: int, steps: int, batch: int, *, seed: int, start: int = 0) -> np.ndarray:
    """index[t, b] = instance b of step start + t: one fresh permutation after another, cut into batches.

    The stream of all indices runs through the instances 0..count-1 once an epoch, in a new order each time, and batches
    go across its borders: none is left out or comes twice in an epoch. The permutation of epoch e depends on (seed, e)
    alone, so that a resumed run asks for `start` and gets what the uninterrupted run would have seen.

    Args:
        count: number of instances, positive.
        steps, batch: shape of the schedule; `batch` may be larger than `count`.
        seed: not negative.

    Returns:
        [steps, batch] int32.

    >>> batch_schedule(4, 2, 2, seed=0).ravel()
    array([2, 0, 1, 3], dtype=int32)
    """
    if count < 1 or batch < 1 or steps < 0 or start < 0:
        raise ValueError(
            f"count and batch must be positive, steps and start not negative: {count=} {batch=} {steps=} {start=}"
        )
    begin, end = start * batch, (start + steps) * batch
    first, last = begin // count, -(-end // count)
    epochs = [np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count) for epoch in range(first, last)]
    stream = np.concatenate([*epochs, np.zeros(0, np.int64)])[begin - first * count : end - first * count]
    return stream.astype(np.int32).reshape(steps, batch)
