"""Model-FLOPs utilisation: what share of the devices' peak a run's useful products make."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

PEAK_FLOPS = {
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Dense peak of a device, FLOP/s of 16-bit products, by the start of its kind, from the vendors' data sheets."""


def peak_flops(devices: Sequence[Any] | None = None) -> float:
    """FLOP/s that the devices can reach together: from the table, or of one measured product where they are not in it.

    CPU devices share one host, which is measured once, with a float32 product of 1,024 x 1,024 (a tenth of a second).

    >>> peak_flops() > 1e8
    True
    """
    devices = jax.devices() if devices is None else devices
    kind = devices[0].device_kind
    known = [name for name in PEAK_FLOPS if kind.startswith(name)]
    if known:
        return PEAK_FLOPS[max(known, key=len)] * len(devices)
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
