"""`pmpjax doctor`."""

import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from pmpjax.cli import accelerators
from pmpjax.cli.options import Command, show_table

_SWEEP_TOLERANCE = 2e-6
_FLOAT32 = 1e-5  # a product of this relative error or less was made in float32; of TF32 it is 3e-4, bfloat16 2e-3


def doctor(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax doctor`; 1 where a check fails or an accelerator is not used.

    Raises:
        ValueError: JAX has no device at all; names the variable that asked for another.
    """
    import tyro

    def options() -> None:
        """Shows devices, versions and memory, how exact products are, and checks one costate sweep against jax.grad."""

    tyro.cli(options, prog=name, args=arguments)
    import jax

    from pmpjax.runs import versions

    root, environment, installed = Path("/"), os.environ, accelerators.plugins()
    attached = accelerators.attached(root, environment, installed)
    required = metadata.requires("jax") or []
    reasons = [accelerators.missed(*found, environment, installed, required) for found in attached.items()]
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where no platform that was asked for is known
        raise ValueError("; ".join((accelerators.refused(environment, str(error)), *reasons))) from error

    rows = {"devices": ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in devices)}
    rows |= {"memory": _memory()} | versions() | {name: installed[name] for name in installed if name != "jax"}
    failures = {}
    if all(device.platform == "cpu" for device in devices) and reasons:
        failures["accelerator"] = "; ".join(reasons)
    errors = {precision: _product_error(precision) for precision in ("default", "highest")}
    rows |= {f"float32 product, {name} precision": _describe(error) for name, error in errors.items()}
    if errors["highest"] > _FLOAT32:
        failures["precision"] = "the highest precision is not float32's here; costates will be as inexact"
    error = _sweep_error()
    found = f"relative error {error:.1e}, tolerance {_SWEEP_TOLERANCE:.0e}"
    if error <= _SWEEP_TOLERANCE:
        rows["costate sweep against autodiff"] = f"ok: {found}"
    else:
        failures["costate sweep against autodiff"] = found
    show_table("pmpjax doctor", rows)
    for check, why in failures.items():  # below the table, whose cells would break a command in two
        print(f"FAILED, {check}: {why}")
    return 1 if failures else 0


def _product_error(precision: str) -> float:
    """|AB - its float32 product on the device| / |AB|, 256 x 256, against float64 in numpy."""
    import jax.numpy as jnp
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = np.asarray(jnp.matmul(a, b, precision=precision), np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _describe(error: float) -> str:
    made_in = "float32" if error <= _FLOAT32 else "TF32" if error < 1e-3 else "bfloat16"
    return f"relative error {error:.1e}: {made_in}"


def _memory() -> str:
    import jax

    names = getattr(os, "sysconf_names", {})  # not on Windows
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        host = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB host"
    else:
        host = "host unknown"
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    return host + (f", {stats['bytes_limit'] / 2**30:.1f} GiB device" if "bytes_limit" in stats else "")


def _sweep_error() -> float:
    """|dJ/du by the costate - by jax.grad| / |dJ/du|, float32, a perceptron of 8 inputs, 16 examples and 12 steps."""
    import jax
    import jax.numpy as jnp

    import pmpjax as pmp
    from pmpjax import observables as obs
    from pmpjax.law import problems

    config = problems.PerceptronProblem(dimension=8, train=16, dev=16, test=1, steps=12)
    drawn = problems.draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    x0, policy = problem.dynamics.init(drawn.params), pmp.uniform(config.steps, config.train)
    with jax.default_matmul_precision("highest"):  # accelerators round the operands of both otherwise
        sweep = jax.jit(lambda u: pmp.costate(problem, x0, u, drawn.train, observe=obs.control_gradient))(policy)
        expected = jax.jit(jax.grad(lambda u: pmp.objective(problem, x0, u, drawn.train)))(policy)
    return float(jnp.linalg.norm(sweep.seen - expected) / jnp.linalg.norm(expected))


COMMANDS = {("doctor",): Command("devices, versions, memory, and one sweep checked against autodiff", doctor)}
