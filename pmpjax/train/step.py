"""The compiled step of the loop: any losses, any optax rule, micro-batches, one device or many."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from pmpjax.train.mesh import constrain, laid_out, place

Losses = Callable[[Any, Any], Array]


class TrainStep(NamedTuple):
    """theta_{t+1} = optimizer(grad mean_b losses(theta_t, batch_t[b])), compiled.

    Fields:
        init: params -> (params, opt_state) on the devices. Copies, because `advance` gives its arguments' memory away,
            and the caller keeps his parameters.
        advance: (params, opt_state, (batch, ...)) -> (params, opt_state, values of each step): `step_function`.
        mesh: where the arrays lie; None is the default device.
        steps_per_call: steps that the device makes before it comes back to the host.
    """

    init: Callable[[Any], tuple[Any, Any]]
    advance: Callable[..., tuple[Any, Any, dict[str, Array]]]
    mesh: Mesh | None
    steps_per_call: int


def train_step(
    losses: Losses,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    steps_per_call: int = 1,
) -> TrainStep:
    """The step that `pmpjax.train.train` makes; equal arguments share the compilation.

    Args:
        losses: (params, batch) -> [B]; the same function object wherever the compilation is to be shared.
        mesh: of axes data, fsdp and tensor (`make_mesh`).
        accumulate: micro-batches that a step's gradient is the exact mean over; divides the batch.
        steps_per_call: fewer before an evaluation or the end: one call reserves its temporary memory once for all of
            them (15% of a step's CPU time at width 256, 6 layers). Decides rounding, so that a resumed run must give
            the same.

    Raises:
        ValueError: one of the two counts is not positive; when called: the batch does not divide.
    """
    if accumulate < 1 or steps_per_call < 1:
        raise ValueError(f"accumulate and steps_per_call must be positive: found {accumulate} and {steps_per_call}")
    initialise = _initialise(optimizer, mesh)

    def init(params: Any) -> tuple[Any, Any]:
        placed = place(params, mesh)
        return placed, initialise(placed)

    return TrainStep(init, step_function(losses, optimizer, accumulate, mesh), mesh, steps_per_call)


@functools.lru_cache(maxsize=8)
def step_function(
    losses: Losses, optimizer: optax.GradientTransformation, accumulate: int = 1, mesh: Mesh | None = None
) -> Callable[..., tuple[Any, Any, dict[str, Array]]]:
    """The jitted function of the loop: (params, opt_state, (batch, ...)) -> (params, opt_state, values of each step).

    One step for each batch given; parameters and state are donated. The same function for equal arguments.
    """

    def mean_loss(params: Any, batch: Any) -> Array:
        with laid_out(mesh):
            return jnp.mean(losses(params, batch))

    def mean_gradient(params: Any, batch: Any) -> tuple[Array, Any]:
        if accumulate == 1:
            return jax.value_and_grad(mean_loss)(params, batch)

        def add(total: Any, micro: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(mean_loss)(params, micro)), None

        micros = jax.tree.map(lambda leaf: _micro_batches(leaf, accumulate), batch)
        shape = jax.eval_shape(jax.value_and_grad(mean_loss), params, jax.tree.map(lambda leaf: leaf[0], micros))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        total, _ = jax.lax.scan(add, zeros, micros)
        return jax.tree.map(lambda leaf: leaf / accumulate, total)

    def step(state: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], dict[str, Array]]:
        params, opt_state = state
        value, gradient = mean_gradient(params, batch)
        gradient = constrain(gradient, mesh)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        values = {"loss": value.astype(jnp.float32), "gradient_norm": optax.tree.norm(gradient).astype(jnp.float32)}
        return (constrain(params, mesh), constrain(opt_state, mesh)), values

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def steps(params: Any, opt_state: Any, batches: tuple[Any, ...]) -> tuple[Any, Any, dict[str, Array]]:
        if len(batches) == 1:
            state, values = step((params, opt_state), batches[0])
            return *state, jax.tree.map(lambda leaf: leaf[None], values)
        state, values = jax.lax.scan(
            step, (params, opt_state), jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        )
        return *state, values

    return steps


def _micro_batches(leaf: Array, count: int) -> Array:
    """[B, ...] to [count, B / count, ...], of which each takes every `count`-th row: a part from every device."""
    if leaf.shape[0] % count:
        raise ValueError(f"a batch of {leaf.shape[0]} is not a multiple of accumulate, {count}; change one of the two")
    return leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:]).swapaxes(0, 1)


@functools.lru_cache(maxsize=8)
def _initialise(optimizer: optax.GradientTransformation, mesh: Mesh | None) -> Callable[[Any], Any]:
    # Jitted, so that no leaf of the optimizer's state shares memory with a parameter: both are given away.
    return jax.jit(lambda params: constrain(optimizer.init(params), mesh))
