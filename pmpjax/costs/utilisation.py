"""Model-FLOPs utilisation: what share of the devices' peak a run's useful products make."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pmpjax.costs.hardware import accelerator_of


def peak_flops(devices: Sequence[Any] | None = None) -> float:
    """FLOP/s that the devices reach together in 16 bits: from the table, or of one measured product where not in it.

    CPU devices share one host, which is measured once, with a float32 product of 1,024 x 1,024 (a tenth of a second).

    >>> peak_flops() > 1e8
    True
    """
    devices = jax.devices() if devices is None else devices
    known = accelerator_of(devices[0].device_kind)
    if known is not None:
        return known.peak * len(devices)
    return _measured(devices[0]) * (1 if devices[0].platform == "cpu" else len(devices))


def _measured(device: Any) -> float:
    size = 1024
    product = jax.jit(jnp.matmul)
    matrix = jax.device_put(jnp.ones((size, size), jnp.float32), device)
    product(matrix, matrix).block_until_ready()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < 0.1:
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
