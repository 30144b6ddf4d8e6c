"""A few steps of L-BFGS on any pytree, under jit."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array


def minimised(loss: Callable[[Any], Array], start: Any, steps: int) -> Any:
    """x_T of x_{t+1} = x_t - a_t B_t grad loss(x_t), B_t the memory of L-BFGS and a_t by line search (optax).

    >>> import jax.numpy as jnp
    >>> round(float(minimised(lambda x: (x - 2.0) ** 2 + jnp.exp(x), jnp.array(0.0), 20)), 3)
    0.841
    """
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, solver.init(start)), None, length=steps)
    return params
