"""Observables: what to look at during the reverse sweep. Each is a function of a `Point`, evaluated at every step.

Give them to `costate` by name; what they return is stacked over time, unless it is added up (`total`) or skipped
(`every`). An observable that is not asked for costs nothing.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Vjp
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
    vjp: covector -> `Cotangents`, the step's transposed linearisation, for any other covector than the costate.
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
    vjp: Vjp


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
"""-dJ/du of the step's own examples, with the shape of the controls: high is good, step size inside."""


def contributions_of(
    losses: Callable[[PyTree, PyTree], Array],
    data: PyTree,
    *,
    chunk: int | None = None,
    parameters: Callable[[PyTree], PyTree] = operator.attrgetter("params"),
    extra_directions: Sequence[PyTree] = (),
) -> Observable:
    """-<gradient_cotangent_t, grad l_z(theta_t)>, the contribution of every instance z of `data` at step t: [M].

    One forward-mode product for a whole chunk: no per-example gradient is formed. For plain SGD this is
    eta <lambda_{t+1}, grad l_z(theta_t)>; its sum over t divided by eta is the PDS score. Instances need not belong to
    any batch of the run, for any optimizer.

    Args:
        losses: (parameters, instances) -> one loss an instance.
        data: pytree with a leading instance axis M.
        chunk: instances evaluated at once; None is all of them. The last chunk overlaps the one before when it does
            not divide M.
        parameters: where the parameters lie in a state.
        extra_directions: K directions, like the parameters: gives [1 + K, M], minus the derivative along the step's own
            cotangent and along each of them, from one linearisation of the losses: they share its forward pass and
            keep a chunk's activations for it.

    Raises:
        ValueError: while tracing, when the dynamics give no gradient_cotangent or `losses` is not one loss an instance.

    Source: PDS (arXiv 2410.07064), the score q_n and its evaluation by jvp.
    """
    size = len(jax.tree.leaves(data)[0])
    width = size if chunk is None else min(chunk, size)

    def evaluate(point: Point) -> Array:
        if point.gradient_cotangent is None:
            raise ValueError("contributions_of needs dynamics with a gradient_cotangent; use pmpjax.training_dynamics")
        params = parameters(point.state)

        def part(first: Array | int) -> Array:
            rows = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), first, width), data)

            def of_rows(params: PyTree) -> Array:
                return losses(params, rows)

            if extra_directions:
                values, linear = jax.linearize(of_rows, params)
                tangents = jnp.stack([linear(d) for d in (point.gradient_cotangent, *extra_directions)])
            else:  # nothing is kept in between
                values, tangents = jax.jvp(of_rows, (params,), (point.gradient_cotangent,))
            if values.shape != (width,):
                raise ValueError(
                    f"contributions_of: the losses have shape {values.shape}, expected ({width},), one loss an instance"
                )
            return -tangents

        def fill(i: Array, out: Array) -> Array:
            first = jnp.minimum(i * width, size - width)
            return jax.lax.dynamic_update_slice_in_dim(out, part(first), first, -1)

        if width == size:
            return part(0)
        shape = jax.eval_shape(part, 0)
        return jax.lax.fori_loop(0, -(-size // width), fill, jnp.zeros((*shape.shape[:-1], size), shape.dtype))

    return Observable(evaluate)


def _alignment(point: Point) -> PyTree:
    if point.running_gradient is None:
        raise ValueError("alignment needs a running cost, whose gradient it follows; use pmpjax.area_under")
    return jax.tree.map(jnp.negative, point.vjp(point.running_gradient).control)


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


class Recorder:
    """Where a pytree of observables puts its values over `horizon` steps. Used by `costate`."""

    def __init__(self, observe: PyTree, horizon: int, control_varies: bool):
        observables, self.structure = jax.tree.flatten(observe, is_leaf=callable)
        self.observables = [as_observable(o) for o in observables]
        self.horizon = horizon
        self.stacking = {"stack": True, "sum": False, "control": control_varies}

    def values(self, point: Point) -> PyTree:
        """Every observable at one point, for shapes."""
        return self.structure.unflatten([o(point) for o in self.observables])

    def start(self, shapes: PyTree) -> PyTree:
        """Empty buffers for values of these shapes."""

        def buffer(o: Observable, shape: PyTree) -> PyTree:
            return trees.zeros_of(shape, *([-(-self.horizon // o.period)] if self.stacking[o.over_time] else []))

        return self._each(buffer, shapes)

    def record(self, buffers: PyTree, point: Point) -> PyTree:
        """The buffers with the values at a point."""

        def put(o: Observable, buffer: PyTree) -> PyTree:
            stacks, row = self.stacking[o.over_time], point.t // o.period
            off = trees.take(buffer, row) if stacks else jax.tree.map(jnp.zeros_like, buffer)
            # Off the period the branch is not run, so a costly observable costs one evaluation each `period` steps.
            on = o.period == 1 or point.t % o.period == 0
            value = o(point) if on is True else jax.lax.cond(on, lambda: o(point), lambda: off)
            return trees.put(buffer, value, row) if stacks else trees.add(buffer, value)

        return self._each(put, buffers)

    def _each(self, function: Callable[[Observable, PyTree], PyTree], values: PyTree) -> PyTree:
        parts = zip(self.observables, self.structure.flatten_up_to(values), strict=True)
        return self.structure.unflatten([function(o, part) for o, part in parts])
