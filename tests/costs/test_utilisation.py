"""The peak of known devices is the table's, and that of others is measured."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp

from pmpjax.costs import utilisation
from pmpjax.costs.hardware import ACCELERATORS


def device(kind, platform):
    return SimpleNamespace(device_kind=kind, platform=platform)


def test_the_peak_of_known_devices_is_the_tables_for_each_of_them():
    assert utilisation.peak_flops([device("TPU v5 lite", "tpu")] * 8) == 8 * ACCELERATORS["v5e"].peak


def test_devices_of_one_host_are_measured_once_and_others_each(monkeypatch):
    monkeypatch.setattr(utilisation, "_measured", lambda device: 5.0)
    assert utilisation.peak_flops([device("cpu", "cpu")] * 8) == 5.0
    assert utilisation.peak_flops([device("Graphcore", "ipu")] * 8) == 40.0


def test_no_product_is_faster_than_the_measured_peak():
    peak = utilisation.peak_flops()
    matrix, product = jnp.ones((512, 512)), jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    assert 2 * 512**3 / best < 20 * peak, "of the same order, whatever else the machine does"
