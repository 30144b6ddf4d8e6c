"""Time and exactness of the simplex projection on 2,000 rows of 4,096: `python experiments/benchmarks/simplex.py`."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax import prox

ROWS, COLUMNS, ROUNDS = 2000, 4096, 15


def by_sorting(v: np.ndarray) -> np.ndarray:
    """The projection by sorting each row, in float64: the oracle."""
    ordered = np.sort(v.astype(np.float64), axis=-1)[:, ::-1]
    excess = np.cumsum(ordered, axis=-1) - 1
    size = (ordered > excess / np.arange(1, v.shape[-1] + 1)).sum(-1, keepdims=True)
    return np.maximum(v - np.take_along_axis(excess, size - 1, -1) / size, 0)


if __name__ == "__main__":
    project = jax.jit(prox.simplex)
    noise = jax.random.normal(jax.random.key(0), (ROWS, COLUMNS))
    for scale in (1.0, 1e-3, 1 / COLUMNS):
        v = jnp.asarray(scale * noise)
        result, seconds = project(v), []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            jax.block_until_ready(project(v))
            seconds.append(time.perf_counter() - start)
        error = np.abs(np.asarray(result) - by_sorting(np.asarray(v))).max()
        print(f"scale {scale:8.2g}: {1e3 * statistics.median(seconds):6.1f} ms, largest error {error:.1e}")
