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


class Pulled(NamedTuple):
    """A covector lambda pulled back through one step of the dynamics.

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


class Dynamics(NamedTuple):
    """x_{t+1} = f(x_t, u_t, w_t).

    init: whatever the user starts from -> state x_0, a pytree. Integer and random-key leaves are allowed; they are
        carried forward and never differentiated.
    step: (state, control, input) -> state, of the same structure, shapes and dtypes; differentiable in every mode.
    pullback: optional cheaper reverse rule, (state, control, input) -> (next state, pull) with pull(lambda_{t+1}) ->
        `Pulled`, equal to what `jax.vjp` of `step` gives. `pull` is a pytree (such as `jax.tree_util.Partial`),
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
    pullback: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Callable[[PyTree], Pulled]]] | None = None
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
    horizon, source = problem.horizon, "Problem.horizon"
    for root, tree, axis in (
        ("controls", controls, problem.control_axis),
        ("inputs", inputs, problem.input_axis),
    ):
        if axis is None:
            continue
        if axis != 0:
            raise ValueError(f"the time axis of the {root} is {axis}; expected 0 or None: move time to the front")
        for name, leaf in trees.named_leaves(tree, root):
            if jnp.ndim(leaf) == 0:
                raise ValueError(
                    f"{name} is a scalar, expected a leading time axis; "
                    f"give it one or set Problem({root.removesuffix('s')}_axis=None)"
                )
            if horizon is None:
                horizon, source = leaf.shape[0], name
            elif leaf.shape[0] != horizon:
                raise ValueError(
                    f"{name} has leading axis {leaf.shape[0]}, expected T = {horizon} as given by {source}; every leaf "
                    f"needs one row a step, or Problem({root.removesuffix('s')}_axis=None) when it is constant in time"
                )
    if horizon is None:
        raise ValueError("neither controls nor inputs have a time axis; set Problem(horizon=T)")
    if horizon < 1:
        raise ValueError(f"the horizon is {horizon} ({source}), expected at least one step")
    return horizon


class Transition(NamedTuple):
    """A problem with its data bound: what a sweep needs at step t."""

    horizon: int
    control: Callable[[Any], PyTree]
    input: Callable[[Any], PyTree]
    advance: Callable[[Any, PyTree], PyTree]
    linearize: Callable[[Any, PyTree], tuple[PyTree, Callable[[PyTree], Pulled]]]
    linearize_at: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Callable[[PyTree], Pulled]]]
    input_varies: bool
    control_varies: bool


def plain_pullback(step: Callable[[PyTree, PyTree, PyTree], PyTree]) -> Callable[..., Any]:
    """The pullback of any differentiable step, by `jax.vjp`."""

    def pullback(state: PyTree, control: PyTree, input: PyTree) -> tuple[PyTree, Callable[[PyTree], Pulled]]:
        moving, fixed = trees.split(state)
        next_moving, vjp, next_fixed = jax.vjp(
            lambda m, u: trees.split(step(trees.merge(m, fixed), u, input)), moving, control, has_aux=True
        )
        return trees.merge(next_moving, next_fixed), jax.tree_util.Partial(_apply_vjp, vjp)

    return pullback


def _apply_vjp(vjp: Callable[[PyTree], tuple[PyTree, PyTree]], costate: PyTree) -> Pulled:
    return Pulled(*vjp(costate))


def bind(problem: Problem, state: PyTree, controls: PyTree, inputs: PyTree) -> tuple[Transition, PyTree, PyTree]:
    """(transition, x_0, controls) with leaves as arrays, checked while tracing."""
    state, controls = trees.as_arrays(state, "state"), trees.as_arrays(controls, "controls")
    inputs = trees.as_arrays(inputs, "inputs")
    horizon = length_of(problem, controls, inputs)
    for name, leaf in trees.named_leaves(controls, "controls"):
        if not trees.is_moving(leaf):
            raise ValueError(f"{name} has dtype {leaf.dtype}, expected a floating one: controls are differentiated")

    def at(tree: PyTree, axis: int | None, t: Any) -> PyTree:
        return tree if axis is None else trees.take(tree, t)

    def control(t: Any) -> PyTree:
        return at(controls, problem.control_axis, t)

    def input(t: Any) -> PyTree:
        return at(inputs, problem.input_axis, t)

    step = problem.dynamics.step
    expected = jax.eval_shape(lambda x: x, state)
    found = jax.eval_shape(lambda: step(state, control(0), input(0)))
    trees.check_same(
        found, expected, "the state after one step", "the step must keep the structure and types of Dynamics.init"
    )
    pullback = problem.dynamics.pullback or plain_pullback(step)
    transition = Transition(
        horizon=horizon,
        control=control,
        input=input,
        advance=lambda t, x: step(x, control(t), input(t)),
        linearize=lambda t, x: pullback(x, control(t), input(t)),
        linearize_at=pullback,
        input_varies=problem.input_axis is not None,
        control_varies=problem.control_axis is not None,
    )
    return transition, state, controls


def running_cost(problem: Problem, state: PyTree, control: PyTree, input: PyTree) -> Array:
    """l(x_t, u_t, w_t), zero where the problem has none; raises when it is not a scalar."""
    if problem.cost.running is None:
        return jnp.zeros(())
    return _scalar(problem.cost.running(state, control, input), "Cost.running")


def terminal_cost(problem: Problem, state: PyTree, input: PyTree) -> Array:
    """phi(x_T), zero where the problem has none; raises when it is not a scalar."""
    terminal = problem.cost.terminal
    if terminal is None:
        return jnp.zeros(())
    return _scalar(terminal(state, input) if takes_input(terminal, 1) else terminal(state), "Cost.terminal")


def _scalar(value: Any, name: str) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"{name} returned shape {jnp.shape(value)}, expected a scalar; reduce it, e.g. by .mean()")
    return jnp.asarray(value)


def value_dtype(problem: Problem, transition: Transition, state: PyTree) -> Any:
    """The dtype in which J accumulates: the wider one of the running and the terminal cost's."""
    control, input = transition.control(0), transition.input(0)
    costs = [jax.eval_shape(lambda: terminal_cost(problem, state, input))] if problem.cost.terminal else []
    costs += [jax.eval_shape(lambda: running_cost(problem, state, control, input))] if problem.cost.running else []
    return max((cost.dtype for cost in costs), key=lambda dtype: dtype.itemsize, default=jnp.zeros(()).dtype)
