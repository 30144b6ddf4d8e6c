"""The reverse scan: Pontryagin's costate along a rollout, and whatever is observed on the way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import observables, trees
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.dynamics import Cotangents, Problem, Vjp, bind, matmul_precision
from pmpjax.control.health import Health, Log, health_of, record, start_log
from pmpjax.control.observables import Point
from pmpjax.control.prox import check_feasible


class Sweep(NamedTuple):
    """value: J. costate: lambda_0 = dJ/dx_0, None at leaves without a derivative. seen: the observables' values.
    health: whether to trust them. final: x_T, for training dynamics the trained parameters and optimizer state."""

    value: Array
    costate: PyTree
    seen: PyTree
    health: Health
    final: PyTree


class _Carry(NamedTuple):
    costate: PyTree
    value: Array
    buffers: PyTree
    log: Log


def costate(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    *,
    adjoint: AbstractAdjoint = Checkpointed(),
    observe: PyTree = None,
) -> Sweep:
    """lambda_t = dl/dx_t + (df/dx_t)^T lambda_{t+1}, lambda_T = grad phi(x_T), for t = T-1 .. 0.

    Then dJ/du_t = dl/du_t + (df/du_t)^T lambda_{t+1} = dH_t/du_t. One reverse scan; nothing but the carry and what is
    observed is kept. Wrap it in `jax.jit`, and in `jax.vmap` over any argument.

    Args:
        problem: dynamics, cost and the time axes of controls and inputs.
        state: x_0, a pytree.
        controls: leaves [T, ...], or one step's control with `control_axis=None`; floating.
        inputs: leaves [T, ...], or one step's input with `input_axis=None`.
        adjoint: how the states are kept (`pmpjax.control.adjoint` ranks them).
        observe: pytree of observables, functions of `Point`.

    Returns:
        Sweep(value, costate, seen, health, final); `seen` has the structure of `observe`.

    Raises:
        ValueError: while tracing, naming the leaf whose axis, shape or dtype is wrong, or (where controls are
            concrete) the control that lies outside the set of `problem.prox`.

    Source: PDS (arXiv 2410.07064), Pontryagin conditions; Learning Law (arXiv 2402.17759), gradient of the objective.

    Example:
        >>> import jax.numpy as jnp, pmpjax as pmp
        >>> from pmpjax import observables as obs
        >>> problem = pmp.Problem(
        ...     pmp.Dynamics(jnp.asarray, lambda x, u, w: 0.5 * x + u), pmp.Cost(terminal=lambda x: 0.5 * x**2)
        ... )
        >>> sweep = pmp.costate(problem, 4.0, jnp.zeros(2), None, observe={"grad": obs.control_gradient})
        >>> float(sweep.value), float(sweep.costate), sweep.seen["grad"].tolist()
        (0.5, 0.25, [0.5, 1.0])
    """
    with matmul_precision(problem):
        return _sweep(problem, state, controls, inputs, adjoint, observe)


def _sweep(
    problem: Problem, state: PyTree, controls: PyTree, inputs: PyTree, adjoint: AbstractAdjoint, observe: PyTree
) -> Sweep:
    transition, state = bind(problem, state, controls, inputs)
    check_feasible(problem.prox, transition.controls)
    recorder = observables.Recorder(observe, transition.horizon, problem.control_axis is not None)

    def point_at(lam: PyTree, t: Array, x: PyTree, following: PyTree, vjp: Vjp) -> tuple[Point, Array, Cotangents]:
        differentiable, static = trees.partition(x)
        control, input = transition.control(t), transition.input(t)
        pulled_back = vjp(lam)
        gradient, running, running_gradient = pulled_back.control, jnp.zeros(()), None
        if problem.cost.running is not None:
            running, (running_gradient, direct) = jax.value_and_grad(
                lambda y, u: transition.running(trees.combine(y, static), u, input), (0, 1)
            )(differentiable, control)
            gradient = trees.add(gradient, direct)
        transported = trees.inner(lam, trees.partition(following)[0])
        hamiltonian = running.astype(transported.dtype) + transported
        cotangent = pulled_back.gradient_cotangent
        point = Point(t, x, lam, control, input, cotangent, hamiltonian, gradient, running_gradient, vjp)
        return point, running, pulled_back

    def start(final: PyTree) -> _Carry:
        differentiable, static = trees.partition(final)
        value, lam = jax.value_and_grad(lambda y: transition.terminal(trees.combine(y, static)))(differentiable)

        def shapes() -> tuple[PyTree, Cotangents]:
            t = jnp.int32(0)
            point, _, pulled_back = point_at(lam, t, final, *transition.linearize(t, final))
            return recorder.values(point), pulled_back

        seen, pulled_back = jax.eval_shape(shapes)
        return _Carry(
            costate=lam,
            value=value.astype(transition.value_dtype(state)),
            buffers=recorder.start(seen),
            log=start_log(transition.horizon, final, value, lam, pulled_back),
        )

    def visit(carry: _Carry, t: Array, x: PyTree, following: PyTree, vjp: Vjp) -> _Carry:
        point, running, pulled_back = point_at(carry.costate, t, x, following, vjp)
        lam = pulled_back.state
        if point.running_gradient is not None:
            lam = trees.add(lam, point.running_gradient)
        return _Carry(
            costate=lam,
            value=carry.value + running.astype(carry.value.dtype),
            buffers=recorder.record(carry.buffers, point),
            log=record(carry.log, point, running, lam, pulled_back.health),
        )

    final, end = adjoint.reverse(transition, state, start, visit)
    return Sweep(end.value, end.costate, end.buffers, health_of(end.log, transition), final)
