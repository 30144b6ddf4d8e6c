"""A plant that compiles in a moment, for tests that look at everything but the plant."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import pmpjax as pmp


class Small(NamedTuple):
    """Regression by one saturating unit: `problem` in time-varying weights over `batches`, from `x0`."""

    problem: pmp.Problem
    x0: pmp.TrainState
    weights: Array
    batches: PyTree
    losses: Callable[[PyTree, PyTree], Array]
    desired: Callable[[PyTree], Array]
    instances: PyTree


def small(
    steps: int = 11,
    batch: int = 4,
    optimizer: optax.GradientTransformation | None = None,
    cost: Callable[..., pmp.Cost] = pmp.area_under,
    prox: pmp.prox.Prox = pmp.prox.identity,
    dtype: type = np.float64,
) -> Small:
    random = np.random.default_rng(11)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(dtype)

    def losses(params: PyTree, batch: PyTree) -> Array:
        return jnp.square(jnp.tanh(batch[0] @ params["unit"]) - batch[1])

    params, desired_batch = {"unit": normal(3)}, (normal(5, 3), normal(5))
    dynamics = pmp.training_dynamics(losses, optax.sgd(0.1) if optimizer is None else optimizer)
    weights = np.exp(normal(steps, batch))

    def desired(params: PyTree) -> Array:
        return jnp.mean(losses(params, desired_batch))

    return Small(
        pmp.Problem(dynamics, cost(desired), prox=prox),
        dynamics.init(params),
        jnp.asarray(weights / weights.sum(axis=1, keepdims=True)),
        jax.tree.map(jnp.asarray, (normal(steps, batch, 3), normal(steps, batch))),
        losses,
        desired,
        jax.tree.map(jnp.asarray, (normal(9, 3), normal(9))),
    )
