"""`pmpjax doctor`: what it measures, and that each fault is a status and a sentence."""

import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from pmpjax import cli
from pmpjax.cli import main
from pmpjax.cli.doctor import _describe, _product_error


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(cli.doctor.accelerators, "attached", lambda *_: {})


def test_a_sweep_is_checked(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "ok: relative error" in shown and shown.count("float32 product") == 2
    monkeypatch.setattr(cli.doctor, "_sweep_error", lambda: 1e-3)
    assert main(["doctor"]) == 1 and "FAILED, costate sweep" in capsys.readouterr().out


def test_an_accelerator_that_jax_does_not_show_is_a_fault(capsys, monkeypatch):
    monkeypatch.setattr(cli.doctor.accelerators, "attached", lambda *_: {"cuda": "/dev/nvidia0"})
    monkeypatch.setattr(cli.doctor.accelerators, "plugins", lambda: {"jax": "0.7.2"})
    monkeypatch.setattr("jax.devices", lambda: [Device("cpu")])
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor"]) == 1
    assert 'pip install "pmpjax[cuda]"' in capsys.readouterr().out
    monkeypatch.setattr("jax.devices", lambda: [Device("cuda"), Device("cpu")])
    assert main(["doctor"]) == 0


class Device:
    id, device_kind = 0, "made up"

    def __init__(self, platform):
        self.platform = platform

    def memory_stats(self):
        return None


def test_a_platform_that_is_not_there_is_one_sentence_that_names_the_variable():
    environment = os.environ | {"JAX_PLATFORMS": "made-up"}
    done = subprocess.run([sys.executable, "-m", "pmpjax", "doctor"], capture_output=True, text=True, env=environment)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("pmpjax:"))
    assert done.returncode == 2 and "JAX_PLATFORMS is 'made-up'" in line
    assert "Traceback" not in done.stderr and "Assertion" not in done.stderr


def test_products_are_told_apart_by_their_error(monkeypatch):
    assert _describe(_product_error("highest")).endswith("float32")

    matmul = jnp.matmul
    monkeypatch.setattr(
        "jax.numpy.matmul", lambda a, b, precision: matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    )
    assert _describe(_product_error("default")).endswith("bfloat16")

    def shortened(x):  # TF32 keeps ten bits behind the point
        return (x.view(jnp.int32) + 0x1000 & -0x2000).view(jnp.float32)

    monkeypatch.setattr("jax.numpy.matmul", lambda a, b, precision: matmul(shortened(a), shortened(b)))
    assert _describe(_product_error("default")).endswith("TF32")


def test_a_device_without_full_precision_is_a_fault(capsys, monkeypatch):
    monkeypatch.setattr(cli.doctor, "_product_error", lambda precision: 2e-3)
    assert main(["doctor"]) == 1 and "FAILED, precision" in capsys.readouterr().out
