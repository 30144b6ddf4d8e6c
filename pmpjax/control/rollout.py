"""The forward scan: trajectories and the objective J."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control.dynamics import Problem, bind, matmul_precision


class Rollout(NamedTuple):
    """final: x_T. record: what `record` returned at x_0 .. x_T, stacked [T + 1, ...]."""

    final: PyTree
    record: PyTree


def rollout(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    record: Callable[[PyTree], PyTree] = lambda state: (),
) -> Rollout:
    """x_{t+1} = f(x_t, u_t, w_t) for t = 0 .. T-1.

    Args:
        problem: dynamics and axes; the cost is not evaluated.
        state: x_0.
        controls: leaves [T, ...], or one step's control with `control_axis=None`.
        inputs: leaves [T, ...], or one step's input with `input_axis=None`.
        record: what to keep of each state; `lambda x: x` keeps the trajectory.

    Returns:
        Rollout(final, record), record stacked over x_0 .. x_T: [T + 1, ...].

    Raises:
        ValueError: while tracing, naming the leaf whose leading axis, shape or dtype is wrong.

    Example:
        >>> import jax.numpy as jnp, pmpjax as pmp
        >>> problem = pmp.Problem(pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u), pmp.Cost())
        >>> pmp.rollout(problem, 0.0, jnp.ones(3), None, record=lambda x: x).record.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    with matmul_precision(problem):
        transition, state = bind(problem, state, controls, inputs)

        def forward(x: PyTree, t: Array) -> tuple[PyTree, PyTree]:
            return transition.advance(t, x), record(x)

        final, kept = jax.lax.scan(forward, state, transition.steps)
        kept = jax.tree.map(lambda rows, last: jnp.concatenate([rows, last[None]]), kept, record(final))
        return Rollout(final, kept)


def objective(problem: Problem, state: PyTree, controls: PyTree, inputs: PyTree) -> Array:
    """J = sum_{t<T} l(x_t, u_t, w_t) + phi(x_T), a scalar; arguments and errors as `rollout`.

    Differentiable by `jax.grad`, at the price of keeping every step's intermediate values; `costate` gives the same
    gradient for much less memory.
    """
    with matmul_precision(problem):
        transition, state = bind(problem, state, controls, inputs)

        def forward(carry: tuple[PyTree, Array], t: Array) -> tuple[tuple[PyTree, Array], None]:
            x, value = carry
            cost = transition.running(x, transition.control(t), transition.input(t))
            return (transition.advance(t, x), value + cost.astype(value.dtype)), None

        start = jnp.zeros((), transition.value_dtype(state))
        (final, value), _ = jax.lax.scan(forward, (state, start), transition.steps)
        return value + transition.terminal(final).astype(value.dtype)
