"""`pmpjax doctor`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmpjax.cli.options import Command, show_table


def doctor(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax doctor`."""
    import tyro

    def options() -> None:
        """Shows devices, versions and memory, and checks one small costate sweep against automatic differentiation."""

    tyro.cli(options, prog=name, args=arguments)
    import jax

    from pmpjax.runs import versions

    rows = {"devices": ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())}
    rows |= {"memory": _memory()} | versions()
    error, tolerance = _sweep_error(), 2e-6
    healthy = error <= tolerance
    rows["costate sweep against autodiff"] = (
        f"{'ok' if healthy else 'FAILED'}: relative error {error:.1e}, tolerance {tolerance:.0e}"
    )
    show_table("pmpjax doctor", rows)
    return 0 if healthy else 1


def _memory() -> str:
    import os

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

    config = problems.PerceptronProblem(dimension=8, train=16, dev=16, test=1, holdout=1, steps=12)
    drawn = problems.draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    x0, policy = problem.dynamics.init(drawn.params), pmp.uniform(config.steps, config.train)
    sweep = jax.jit(lambda u: pmp.costate(problem, x0, u, drawn.train, observe=obs.control_gradient))(policy)
    expected = jax.jit(jax.grad(lambda u: pmp.objective(problem, x0, u, drawn.train)))(policy)
    return float(jnp.linalg.norm(sweep.seen - expected) / jnp.linalg.norm(expected))


COMMANDS = {("doctor",): Command("devices, versions, memory, and one sweep checked against autodiff", doctor)}
