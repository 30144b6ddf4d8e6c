"""Which instances a step sees: deterministic schedules of indices, and the batches they name."""

from typing import Any, SupportsIndex

import grain
import jax
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


def scheduled_batches(data: Any, schedule: np.ndarray) -> grain.IterDataset:
    """Batch t is data[schedule[t]], for t = 0 .. steps-1: a Grain dataset whose position is one integer.

    Args:
        data: pytree of arrays with a leading instance axis, in memory.
        schedule: [steps, batch] integers (`batch_schedule`).

    >>> batches = scheduled_batches({"x": np.array([5.0, 6.0, 7.0])}, np.array([[2, 0], [1, 1]]))
    >>> [batch["x"].tolist() for batch in batches]
    [[7.0, 5.0], [6.0, 6.0]]
    """
    source = _Scheduled(jax.tree.map(np.asarray, data), np.asarray(schedule))
    return grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))


class _Scheduled:
    def __init__(self, data: Any, schedule: np.ndarray) -> None:
        self._data, self._schedule = data, schedule

    def __len__(self) -> int:
        return len(self._schedule)

    def __repr__(self) -> str:  # grain writes it into messages
        return f"scheduled_batches(steps={len(self._schedule)})"

    def __getitem__(self, index: SupportsIndex) -> Any:
        chosen = self._schedule[index.__index__()]
        return jax.tree.map(lambda leaf: leaf[chosen], self._data)
