"""What the adjoints cost, read off traced and compiled programs that are never run (no timing)."""

import functools
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.costs.compiled import matrix_product_flops
from tests.control.small import small

ADJOINTS = {
    "store all": pmp.StoreAll(),
    "linearized": pmp.Linearized(),
    "checkpointed": pmp.Checkpointed(),
    "binomial": pmp.Binomial(12),
}


def benchmark(name):
    """A module of experiments/benchmarks, which is no package."""
    path = Path(__file__).parents[2] / "experiments" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


plants = benchmark("plants")


@contextmanager
def optimized() -> Iterator[None]:
    """What users get: tests/conftest.py switches most optimizations off."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def sweep_of(problem, adjoint, observe=obs.control_gradient):
    def run(x0, controls, inputs):
        sweep = pmp.costate(problem, x0, controls, inputs, adjoint=adjoint, observe=observe)
        return sweep.value, sweep.costate, sweep.seen

    return jax.jit(run)


# Cost in gradients


@functools.cache
def decoder_plant(layers, steps):
    """(problem, arguments as shapes, FLOPs of one gradient of the training loss) at the sizes of the issue."""
    shape = plants.DecoderShape(layers=layers)
    losses = functools.partial(plants.decoder_losses, shape)
    dynamics = pmp.training_dynamics(losses, optax.sgd(0.1))
    desired = jnp.zeros((shape.batch, shape.length), jnp.int32)
    problem = pmp.Problem(dynamics, pmp.area_under(lambda params: losses(params, desired).mean()))
    params = jax.eval_shape(lambda: plants.init_decoder(shape, jax.random.key(0)))
    x0 = jax.eval_shape(dynamics.init, params)
    weights = jax.ShapeDtypeStruct((steps, shape.batch), jnp.float32)
    tokens = jax.ShapeDtypeStruct((steps, shape.batch, shape.length), jnp.int32)
    gradient = jax.jit(jax.grad(lambda p, u, w: jnp.vdot(u, losses(p, w))))
    one = gradient.lower(params, jax.ShapeDtypeStruct((shape.batch,), jnp.float32), desired).compile()
    return problem, (x0, weights, tokens), matrix_product_flops(one.as_text())


# Compilation is most of what these cost, and the ratio does not depend on the number of layers.
@pytest.mark.parametrize("layers", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("adjoint", "gradients"), [(pmp.Checkpointed(), 6.05), (pmp.StoreAll(), 5.05), (pmp.Linearized(), 4.05)], ids=str
)
def test_a_step_costs_so_many_gradients(adjoint, gradients, layers):
    """Matrix products of the compiled sweep over those of one gradient, at T = 64."""
    problem, arguments, one = decoder_plant(layers, 64)
    flops = matrix_product_flops(sweep_of(problem, adjoint).lower(*arguments).compile().as_text())
    assert gradients - 1 < flops / one / 64 <= gradients


# Size of the program


def equations(jaxpr) -> int:
    """Equations of a jaxpr and of every jaxpr inside it."""
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    if not isinstance(jaxpr, Jaxpr):
        return 0
    inside = (
        p
        for e in jaxpr.eqns
        for value in e.params.values()
        for p in (value if isinstance(value, (tuple, list)) else [value])
    )
    return len(jaxpr.eqns) + sum(equations(p) for p in inside)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_program_does_not_grow_with_the_horizon(adjoint):
    def size(steps):
        plant = small(steps, dtype=np.float32)
        return equations(
            jax.make_jaxpr(sweep_of(plant.problem, ADJOINTS[adjoint]))(plant.x0, plant.weights, plant.batches)
        )

    assert size(4096) == size(16) > 100


# Memory


def temporary_bytes(problem, adjoint, *arguments):
    """Temporary memory of a compiled sweep, arguments and outputs apart."""
    with optimized():
        analysis = sweep_of(problem, adjoint, None).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def big_state(steps, size=4096):
    """A plant of one elementwise step, whose state is all that matters; full batch."""
    problem = pmp.Problem(
        pmp.Dynamics(jnp.asarray, lambda x, u, w: x + 0.1 * jnp.sin(x) * u),
        pmp.Cost(terminal=lambda x: jnp.sum(x**2)),
    )
    return problem, jax.ShapeDtypeStruct((size,), jnp.float32), jax.ShapeDtypeStruct((steps,), jnp.float32), None


def test_memory_of_a_binomial_sweep_does_not_grow_with_the_horizon():
    few, many = (
        temporary_bytes(problem, pmp.Binomial(12), *arguments)
        for problem, *arguments in (big_state(256), big_state(4096))
    )
    assert many <= 1.3 * few
    assert few >= 12 * 4 * 4096  # the slots are there, so that the comparison means something


def test_memory_of_the_other_adjoints():
    state, steps = 4 * 4096, 1024
    problem, *arguments = big_state(steps)
    # 32 first states and the 32 of one segment.
    assert 64 * state <= temporary_bytes(problem, pmp.Checkpointed(), *arguments) < 80 * state
    assert steps * state <= temporary_bytes(problem, pmp.StoreAll(), *arguments) < 1.1 * steps * state


def linear_plant(steps, batch, width, **axes):
    """Logistic regression, whose linearisation holds the batch [batch, width] and a slope an example."""
    dynamics = pmp.training_dynamics(lambda params, input: jax.nn.softplus(input @ params), optax.sgd(0.1))
    problem = pmp.Problem(dynamics, pmp.terminal_loss(lambda params: jnp.sum(params**2)), **axes)
    leading = () if axes.get("input_axis", 0) is None else (steps,)
    x0 = jax.eval_shape(dynamics.init, jnp.zeros(width))
    inputs = jax.ShapeDtypeStruct((*leading, batch, width), jnp.float32)
    return problem, x0, jax.ShapeDtypeStruct((steps, batch), jnp.float32), inputs


@pytest.mark.parametrize("axes", [{"input_axis": None}, {}], ids=["full batch", "a batch a step"])
def test_linearized_stores_neither_what_is_constant_nor_what_is_an_argument(axes):
    steps, batch, width = 128, 64, 256
    problem, *arguments = linear_plant(steps, batch, width, **axes)
    copies = 4 * steps * batch * width
    assert temporary_bytes(problem, pmp.Linearized(), *arguments) < copies / 4


# Arguments


def test_adjoints_refuse_sizes_below_one():
    with pytest.raises(ValueError, match=r"segment=0"):
        pmp.Checkpointed(segment=0)
    with pytest.raises(ValueError, match=r"slots=0"):
        pmp.Binomial(slots=0)
