"""A discrete controlled system, its cost, and the forward scan."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.prox import Prox, identity


class StepHealth(NamedTuple):
    """What the reverse rule of a training step knows of its own numbers.

    singular: for each parameter leaf the number of coordinates that were left out of `gradient_cotangent` although an
        example of the step has a gradient there. None for rules without singular points.
    costate_norm: |lambda_{t+1}| over the parameters alone, a scalar.
    """

    singular: PyTree
    costate_norm: Array


class Cotangents(NamedTuple):
    """A covector lambda pulled back through one step of the dynamics: what the step's vjp returns.

    state: (df/dx)^T lambda, like the differentiable part of the state.
    control: (df/du)^T lambda, like the control of a step.
    gradient_cotangent: lambda pulled back to the place where a gradient enters the step (like the parameters); None
        for dynamics that have no such place.
    health: a `StepHealth`; None for dynamics that give none.
    """

    state: PyTree
    control: PyTree
    gradient_cotangent: PyTree = None
    health: StepHealth | None = None


Vjp = Callable[[PyTree], Cotangents]


class Dynamics(NamedTuple):
    """x_{t+1} = f(x_t, u_t, w_t).

    init: whatever the user starts from -> state x_0, a pytree. Integer and random-key leaves are allowed; they are
        carried forward and never differentiated.
    step: (state, control, input) -> state, of the same structure, shapes and dtypes; differentiable in every mode.
    pullback: optional cheaper reverse rule, (state, control, input) -> (next state, vjp) with vjp(lambda_{t+1}) ->
        `Cotangents`, equal to what `jax.vjp` of `step` gives. `vjp` is a pytree (such as `jax.tree_util.Partial`),
        because `Linearized` stores its leaves.
    finite: optional, (state, control, input) -> whether the losses of a step are finite, and whether their gradient
        is. Asked once, of the step at which a sweep stops being finite.

    Example:
        >>> import jax.numpy as jnp, pmpjax as pmp
        >>> decay = pmp.Dynamics(init=jnp.asarray, step=lambda x, u, w: 0.5 * x + u)
        >>> float(decay.step(decay.init(2.0), 1.0, None))
        2.0
    """

    init: Callable[..., PyTree]
    step: Callable[[PyTree, PyTree, PyTree], PyTree]
    pullback: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Vjp]] | None = None
    finite: Callable[[PyTree, PyTree, PyTree], tuple[Array, Array]] | None = None


class Cost(NamedTuple):
    """J = sum_{t<T} running(x_t, u_t, w_t) + terminal(x_T), minimised; either part may be None.

    running: (state, control, input) -> scalar.
    terminal: (state) -> scalar, or (state, input) -> scalar, which receives the last step's input w_{T-1}.
    """

    running: Callable[[PyTree, PyTree, PyTree], Array] | None = None
    terminal: Callable[..., Array] | None = None


class Problem(NamedTuple):
    """min_u J(u) with u in the set of `prox`, along x_{t+1} = f(x_t, u_t, w_t).

    prox: the feasible set, as a proximal operator (`pmpjax.prox`).
    control_axis: 0 when every leaf of the controls has a leading time axis, None when one control serves all steps
        (PDS); the gradient of a constant control is the sum over t.
    input_axis: 0 or None in the same way for the inputs (None: full batch, kept once).
    horizon: T; needed only when both axes are None.
    precision: of every matrix product that is traced in `costate`, `solve`, `verify`, `rollout` and `objective`, as
        `jax.default_matmul_precision` takes it; None leaves it to the backend. The default of accelerators is bfloat16
        or TF32 for float32 products, in which costates turn into noise; reduced precision that the losses ask for
        themselves stays.
    """

    dynamics: Dynamics
    cost: Cost
    prox: Prox = identity
    control_axis: int | None = 0
    input_axis: int | None = 0
    horizon: int | None = None
    precision: str | None = "highest"


def matmul_precision(problem: Problem) -> AbstractContextManager[Any]:
    """The context in which a problem's functions are traced."""
    return nullcontext() if problem.precision is None else jax.default_matmul_precision(problem.precision)


def takes_input(function: Callable[..., Any], before: int) -> bool:
    """Whether a user's function accepts one more positional argument than `before`."""
    try:
        inspect.signature(function).bind(*([None] * (before + 1)))
    except TypeError:
        return False
    return True


def length_of(problem: Problem, controls: PyTree, inputs: PyTree) -> int:
    """The number of steps T; raises ValueError naming the leaf whose leading axis disagrees."""
    lengths = [] if problem.horizon is None else [("Problem.horizon", problem.horizon)]
    for root, tree, axis in (("control", controls, problem.control_axis), ("input", inputs, problem.input_axis)):
        if axis is None:
            continue
        if axis != 0:
            raise ValueError(f"the time axis of the {root}s is {axis}; expected 0 or None: move time to the front")
        hint = f"Problem({root}_axis=None) where it is constant in time"
        for name, leaf in trees.named_leaves(tree, f"{root}s"):
            if jnp.ndim(leaf) == 0:
                raise ValueError(f"{name} is a scalar, expected a leading time axis, or {hint}")
            lengths.append((name, leaf.shape[0]))
            source, horizon = lengths[0]
            if leaf.shape[0] != horizon:
                raise ValueError(
                    f"{name} has leading axis {leaf.shape[0]}, expected T = {horizon} as given by {source}: one row a "
                    f"step, or {hint}"
                )
    if not lengths:
        raise ValueError("neither controls nor inputs have a time axis; set Problem(horizon=T)")
    source, horizon = lengths[0]
    if horizon < 1:
        raise ValueError(f"the horizon is {horizon} ({source}), expected at least one step")
    return horizon


class Transition(NamedTuple):
    """A problem with its data bound: what a sweep needs at step t."""

    problem: Problem
    horizon: int
    controls: PyTree
    inputs: PyTree

    @property
    def steps(self) -> Array:
        """t = 0 .. T-1."""
        return jnp.arange(self.horizon, dtype=jnp.int32)

    def control(self, t: Any) -> PyTree:
        """u_t."""
        return self.controls if self.problem.control_axis is None else trees.take(self.controls, t)

    def input(self, t: Any) -> PyTree:
        """w_t."""
        return self.inputs if self.problem.input_axis is None else trees.take(self.inputs, t)

    def advance(self, t: Any, state: PyTree) -> PyTree:
        """x_{t+1}."""
        return self.problem.dynamics.step(state, self.control(t), self.input(t))

    def linearize(self, t: Any, state: PyTree) -> tuple[PyTree, Vjp]:
        """(x_{t+1}, the vjp of step t)."""
        return self.pullback(state, self.control(t), self.input(t))

    def pullback(self, state: PyTree, control: PyTree, input: PyTree) -> tuple[PyTree, Vjp]:
        """The dynamics' own reverse rule, or `jax.vjp` of the step."""
        dynamics = self.problem.dynamics
        if dynamics.pullback is not None:
            return dynamics.pullback(state, control, input)
        differentiable, static = trees.partition(state)
        following, vjp, following_static = jax.vjp(
            lambda x, u: trees.partition(dynamics.step(trees.combine(x, static), u, input)),
            differentiable,
            control,
            has_aux=True,
        )
        return trees.combine(following, following_static), jax.tree_util.Partial(_cotangents, vjp)

    def running(self, state: PyTree, control: PyTree, input: PyTree) -> Array:
        """l(x_t, u_t, w_t), zero where the problem has none; raises when it is not a scalar."""
        running = self.problem.cost.running
        return jnp.zeros(()) if running is None else _scalar(running(state, control, input), "Cost.running")

    def terminal(self, state: PyTree) -> Array:
        """phi(x_T), zero where the problem has none; raises when it is not a scalar."""
        terminal = self.problem.cost.terminal
        if terminal is None:
            return jnp.zeros(())
        last = (self.input(self.horizon - 1),) if takes_input(terminal, 1) else ()
        return _scalar(terminal(state, *last), "Cost.terminal")

    def value_dtype(self, state: PyTree) -> Any:
        """The dtype in which J accumulates: the wider one of the running and the terminal cost's."""
        cost, at = self.problem.cost, (state, self.control(0), self.input(0))
        parts = [] if cost.running is None else [jax.eval_shape(lambda: self.running(*at))]
        parts += [] if cost.terminal is None else [jax.eval_shape(lambda: self.terminal(state))]
        return trees.widest(parts)


def _cotangents(vjp: Callable[[PyTree], tuple[PyTree, PyTree]], costate: PyTree) -> Cotangents:
    return Cotangents(*vjp(costate))


def _scalar(value: Any, name: str) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"{name} returned shape {jnp.shape(value)}, expected a scalar; reduce it, e.g. by .mean()")
    return jnp.asarray(value)


def bind(problem: Problem, state: PyTree, controls: PyTree, inputs: PyTree) -> tuple[Transition, PyTree]:
    """(transition, x_0) with leaves as arrays, checked while tracing."""
    state, controls = trees.as_arrays(state, "state"), trees.as_arrays(controls, "controls")
    inputs = trees.as_arrays(inputs, "inputs")
    transition = Transition(problem, length_of(problem, controls, inputs), controls, inputs)
    for name, leaf in trees.named_leaves(controls, "controls"):
        if not trees.is_differentiable(leaf):
            raise ValueError(f"{name} has dtype {leaf.dtype}, expected a floating one: controls are differentiated")
    found, hint = jax.eval_shape(lambda: transition.advance(0, state)), "the step must keep what Dynamics.init made"
    trees.check_same(found, jax.eval_shape(lambda: state), "the state after one step", hint)
    return transition, state
