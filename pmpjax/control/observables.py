"""Observables: what to look at during the reverse sweep. Each is a function of a `Point`, evaluated at every step.

Give them to `costate` by name; what they return is stacked over time, unless it is added up (`total`) or skipped
(`every`). An observable that is not asked for costs nothing.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Pulled
from pmpjax.control.prox import Prox


class Point(NamedTuple):
    """One step of the reverse sweep.

    t: step, an integer scalar.
    state: x_t.
    costate_next: lambda_{t+1}, like the differentiable leaves of the state, None at the others.
    control, input: u_t, w_t.
    gradient_cotangent: lambda_{t+1} pulled back through the optimizer update to where the gradient enters, like the
        parameters; None when the dynamics have no such place. The contribution of any instance z is
        -<gradient_cotangent, grad l_z(theta_t)>.
    hamiltonian: H_t = l(x_t, u_t, w_t) + <lambda_{t+1}, f(x_t, u_t, w_t)>, a scalar.
    control_gradient: dH_t/du_t = dJ/du_t, like u_t.
    running_gradient: dl/dx at x_t, like the costate; None when the problem has no running cost.
    pull: covector -> `Pulled`, the step's transposed linearisation, for any other covector than the costate.
    """

    t: Array
    state: PyTree
    costate_next: PyTree
    control: PyTree
    input: PyTree
    gradient_cotangent: PyTree
    hamiltonian: Array
    control_gradient: PyTree
    running_gradient: PyTree
    pull: Callable[[PyTree], Pulled]


@dataclasses.dataclass(frozen=True, eq=False)
class Observable:
    """A function of a point, and what becomes of its values over time.

    evaluate: Point -> pytree of arrays.
    over_time: "stack" gives [ceil(T / period), ...]; "sum" adds in the carry of the scan; "control" does what the
        control does: stacks when it varies in time, adds when it is constant.
    period: evaluate at t = 0, period, 2 period, ... only.
    """

    evaluate: Callable[[Point], PyTree]
    over_time: Literal["stack", "sum", "control"] = "stack"
    period: int = 1

    def __call__(self, point: Point) -> PyTree:
        return self.evaluate(point)


def as_observable(function: Callable[[Point], PyTree]) -> Observable:
    """An `Observable` as it is, any other function as one that is stacked over time."""
    return function if isinstance(function, Observable) else Observable(function)


hamiltonian = Observable(lambda point: point.hamiltonian)
"""H_t = l(x_t, u_t, w_t) + <lambda_{t+1}, f(x_t, u_t, w_t)>: [T]."""

control_gradient = Observable(lambda point: point.control_gradient, "control")
"""dJ/du, with the shape of the controls: low is good."""

contributions = Observable(lambda point: jax.tree.map(jnp.negative, point.control_gradient), "control")
"""Worth of the step's own examples, -dJ/du, with the shape of the controls: high is good, step size inside."""


def contributions_of(
    losses: Callable[[PyTree, PyTree], Array],
    data: PyTree,
    *,
    chunk: int | None = None,
    parameters: Callable[[PyTree], PyTree] = operator.attrgetter("params"),
    beside: Sequence[PyTree] = (),
) -> Observable:
    """Worth of every instance of `data` at step t: -<gradient_cotangent_t, grad l_z(theta_t)>, [M].

    One forward-mode product for a whole chunk: no per-example gradient is formed. For plain SGD this is
    eta <lambda_{t+1}, grad l_z(theta_t)>; its sum over t divided by eta is the PDS score. Instances need not belong to
    any batch of the run, for any optimizer.

    Args:
        losses: (parameters, instances) -> one loss an instance.
        data: pytree with a leading instance axis M.
        chunk: instances evaluated at once; None is all of them. The last chunk overlaps the one before when it does
            not divide M.
        parameters: where the parameters lie in a state.
        beside: K further directions, like the parameters: gives [1 + K, M], the worth along the step's own and along
            each of them, from one linearisation of the losses: they share its forward pass and keep a chunk's
            activations for it.

    Raises:
        ValueError: while tracing, when the dynamics give no gradient_cotangent or `losses` is not one loss an instance.

    Source: PDS (arXiv 2410.07064), the score q_n and its evaluation by jvp.
    """
    size = len(jax.tree.leaves(data)[0])
    width = size if chunk is None else min(chunk, size)

    def worth(point: Point) -> Array:
        if point.gradient_cotangent is None:
            raise ValueError("contributions_of needs dynamics with a gradient_cotangent; use pmpjax.training_dynamics")
        directions = (point.gradient_cotangent, *beside)

        def part(first: Array | int) -> Array:
            rows = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), first, width), data)
            values, tangents = _derivatives(lambda p: losses(p, rows), parameters(point.state), directions)
            if values.shape != (width,):
                raise ValueError(
                    f"contributions_of: the losses have shape {values.shape}, expected ({width},); "
                    "return one loss an instance"
                )
            return -(jnp.stack(tangents) if beside else tangents[0])

        if width == size:
            return part(0)

        def fill(i: Array, out: Array) -> Array:
            first = jnp.minimum(i * width, size - width)
            return jax.lax.dynamic_update_slice_in_dim(out, part(first), first, -1)

        shape = jax.eval_shape(lambda: part(0))
        empty = jnp.zeros((*shape.shape[:-1], size), shape.dtype)
        return jax.lax.fori_loop(0, -(-size // width), fill, empty)

    return Observable(worth)


def _derivatives(
    losses: Callable[[PyTree], Array], params: PyTree, directions: Sequence[PyTree]
) -> tuple[Array, list[Array]]:
    """The losses and their derivative along each direction; of one direction nothing is kept in between."""
    if len(directions) == 1:
        values, tangent = jax.jvp(losses, (params,), (directions[0],))
        return values, [tangent]
    values, linear = jax.linearize(losses, params)
    return values, [linear(direction) for direction in directions]


def _alignment(point: Point) -> PyTree:
    if point.running_gradient is None:
        raise ValueError("alignment needs a running cost, whose gradient it follows; use pmpjax.area_under")
    return jax.tree.map(jnp.negative, point.pull(point.running_gradient).control)


alignment = Observable(_alignment, "control")
"""The step's own examples along the gradient of the desired loss instead of the costate, like the controls.

-d/du <dl/dx_t, f(x_t, u_t, w_t)>, for SGD eta <grad J(theta_t), grad l_n(theta_t)>: the contribution of the Learning
Law (arXiv 2402.17759, Theorem), a statement about the continuous-time limit.
"""


def stationarity(prox: Prox, step: float = 1.0) -> Observable:
    """|u_t - prox(u_t - step * dH_t/du_t, step)|, zero where u_t is stationary: [T]. For time-varying controls."""

    def residual(point: Point) -> Array:
        def move(u: Array, gradient: Array) -> Array:
            return u - prox(prox.coordinates(u) - step * gradient, step)

        return trees.norm(jax.tree.map(move, point.control, point.control_gradient))

    return Observable(residual)


def every(period: int, observable: Callable[[Point], PyTree]) -> Observable:
    """`observable` at t = 0, period, 2 period, ... only: [ceil(T / period), ...] when stacked."""
    if period < 1:
        raise ValueError(f"every({period}, ...): expected a period of at least 1")
    inner = as_observable(observable)
    return dataclasses.replace(inner, period=inner.period * period)


def total(observable: Callable[[Point], PyTree]) -> Observable:
    """The sum of `observable` over the steps at which it is evaluated, kept in the carry instead of stacked."""
    return dataclasses.replace(as_observable(observable), over_time="sum")


class Recorder(NamedTuple):
    """Where the observables of a sweep put their values: start() -> buffers, record(buffers, point) -> buffers."""

    start: Callable[[PyTree], PyTree]
    record: Callable[[PyTree, Point], PyTree]


def recorder(observe: PyTree, horizon: int, control_varies: bool) -> Recorder:
    """Buffers for a pytree of observables over `horizon` steps. Used by `costate`."""
    observables, structure = jax.tree.flatten(observe, is_leaf=callable)
    observables = [as_observable(o) for o in observables]

    def stacks(o: Observable) -> bool:
        return o.over_time == "stack" or (o.over_time == "control" and control_varies)

    def start(shapes: PyTree) -> PyTree:
        buffers = [
            trees.zeros_of(shape, *([-(-horizon // o.period)] if stacks(o) else []))
            for o, shape in zip(observables, structure.flatten_up_to(shapes), strict=True)
        ]
        return structure.unflatten(buffers)

    def put(o: Observable, buffer: PyTree, point: Point) -> PyTree:
        row = point.t // o.period
        previous = trees.take(buffer, row) if stacks(o) else buffer
        if o.period == 1:
            value = o(point)
        else:
            # Off the period the branch is not run, so a costly observable costs one evaluation each `period` steps.
            zero = jax.tree.map(jnp.zeros_like, previous)
            off = previous if stacks(o) else zero
            value = jax.lax.cond(point.t % o.period == 0, lambda: o(point), lambda: off)
        return trees.put(buffer, value, row) if stacks(o) else trees.add(buffer, value)

    def record(buffers: PyTree, point: Point) -> PyTree:
        parts = structure.flatten_up_to(buffers)
        return structure.unflatten([put(o, part, point) for o, part in zip(observables, parts, strict=True)])

    return Recorder(start, record)


def values(observe: PyTree, point: Point) -> PyTree:
    """Every observable of a pytree at one point, for shapes."""
    evaluated: Any = jax.tree.map(lambda o: as_observable(o)(point), observe, is_leaf=callable)
    return evaluated
