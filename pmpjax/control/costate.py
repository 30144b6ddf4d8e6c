"""The reverse scan: Pontryagin's costate along a rollout, and whatever is observed on the way."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pmpjax.control import observables, trees
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.dynamics import Problem, Pulled, bind, running_cost, terminal_cost, value_dtype
from pmpjax.control.observables import Point
from pmpjax.control.prox import check_feasible


class Status(enum.IntEnum):
    """What became of a sweep."""

    OK = 0
    COSTATE_NOT_FINITE = 1
    STATE_NOT_FINITE = 2


class Health(NamedTuple):
    """Whether a sweep's numbers can be trusted.

    status: a `Status`, integer scalar.
    step: where it went wrong: the first t whose state x_t is not finite, or the last t whose costate is not; -1.
    norms: |lambda_t| for t = 0 .. T, [T + 1].
    direction_norms: |direction_t| for t = 0 .. T-1, [T]; for dynamics without one |lambda_{t+1}|. Growth on the way
        back means a plant whose step is too large for its curvature, even where the loss looks fine. (The costate
        of Adam's second moment is huge by nature, so the norm of lambda itself does not tell.)
    unmoved: for each parameter leaf the largest number of coordinates, over the steps, at which the optimizer has no
        slope (no gradient and no second moment yet); they are left out of `direction`. None where none are counted.
    """

    status: Int[Array, ""]
    step: Int[Array, ""]
    norms: Float[Array, " nodes"]
    direction_norms: Float[Array, " steps"]
    unmoved: PyTree

    @property
    def growth(self) -> float:
        """max_t |direction_t| over the last one that is not zero; reads the arrays, so not under jit."""
        norms = [norm for norm in self.direction_norms.tolist() if norm]
        return max(norms) / norms[-1] if norms else 1.0

    def describe(self) -> str:
        """One sentence for a person; reads the arrays, so not under jit."""
        growth = self.growth
        sentences = {
            Status.OK: f"finite; the costate grew {growth:.3g}-fold at most on its way back",
            Status.COSTATE_NOT_FINITE: f"the costate stops being finite at step {int(self.step)}; lower the step size",
            Status.STATE_NOT_FINITE: f"the plant diverges: x_t is not finite from step {int(self.step)} on; "
            "lower the step size",
        }
        text = sentences[Status(int(self.status))]
        if Status(int(self.status)) is Status.OK and growth > 1e3:
            text += ": the plant is unstable for the costate; lower the step size"
        unmoved = [(name, int(n)) for name, n in trees.named_leaves(self.unmoved, "") if int(n)]
        if unmoved:
            text += "; coordinates without a slope, left out: " + ", ".join(f"{name} {n}" for name, n in unmoved)
        return text


class Sweep(NamedTuple):
    """value: J. costate: lambda_0 = dJ/dx_0, None at leaves without a derivative. seen: the observables' values."""

    value: Array
    costate: PyTree
    seen: PyTree
    health: Health


class _Carry(NamedTuple):
    costate: PyTree
    value: Array
    buffers: PyTree
    norms: Array
    direction_norms: Array
    costate_step: Array
    state_step: Array
    unmoved: PyTree


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
        Sweep(value, costate, seen, health); `seen` has the structure of `observe`.

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
    transition, state, controls = bind(problem, state, controls, inputs)
    check_feasible(problem.prox, controls)
    horizon = transition.horizon
    recorder = observables.recorder(observe, horizon, transition.control_varies)
    has_running = problem.cost.running is not None

    def point_at(lam: PyTree, t: Array, x: PyTree, following: PyTree, pull: Any) -> tuple[Point, Array, Pulled, PyTree]:
        moving, fixed = trees.split(x)
        control, input = transition.control(t), transition.input(t)
        pulled = pull(lam)
        gradient, running, running_gradient = pulled.control, jnp.zeros(()), None
        if has_running:
            running, (running_gradient, direct) = jax.value_and_grad(
                lambda m, u: running_cost(problem, trees.merge(m, fixed), u, input), (0, 1)
            )(moving, control)
            gradient = trees.add(gradient, direct)
        hamiltonian = running + trees.inner(lam, trees.split(following)[0])
        point = Point(t, x, lam, control, input, pulled.direction, hamiltonian, gradient, running_gradient, pull)
        return point, running, pulled, running_gradient

    def start(final: PyTree) -> _Carry:
        moving, fixed = trees.split(final)
        value, lam = jax.value_and_grad(
            lambda m: terminal_cost(problem, trees.merge(m, fixed), transition.input(horizon - 1))
        )(moving)

        def shapes() -> tuple[PyTree, PyTree]:
            t = jnp.int32(0)
            point, _, pulled, _ = point_at(lam, t, final, *transition.linearize(t, final))
            return observables.values(observe, point), pulled.unmoved

        seen, unmoved = jax.eval_shape(shapes)
        return _Carry(
            costate=lam,
            value=value.astype(value_dtype(problem, transition, state)),
            buffers=recorder.start(seen),
            norms=jnp.zeros(horizon + 1).at[horizon].set(trees.norm(lam)),
            direction_norms=jnp.zeros(horizon),
            costate_step=jnp.where(_finite(lam), jnp.int32(-1), jnp.int32(horizon)),
            state_step=jnp.where(_finite(moving), jnp.int32(-1), jnp.int32(horizon)),
            unmoved=trees.zeros_of(unmoved),
        )

    def visit(carry: _Carry, t: Array, x: PyTree, following: PyTree, pull: Any) -> _Carry:
        point, running, pulled, running_gradient = point_at(carry.costate, t, x, following, pull)
        lam = trees.add(pulled.state, running_gradient) if has_running else pulled.state
        size = trees.norm(lam)
        reach = trees.norm(carry.costate if pulled.direction is None else pulled.direction)
        return _Carry(
            costate=lam,
            value=carry.value + running,
            buffers=recorder.record(carry.buffers, point),
            norms=carry.norms.at[t].set(size.astype(carry.norms.dtype)),
            direction_norms=carry.direction_norms.at[t].set(reach.astype(carry.norms.dtype)),
            costate_step=jnp.where((carry.costate_step < 0) & ~_finite(lam), t, carry.costate_step),
            state_step=jnp.where(_finite(trees.split(x)[0]), carry.state_step, t),
            unmoved=jax.tree.map(jnp.maximum, carry.unmoved, pulled.unmoved),
        )

    end = adjoint.reverse(transition, state, start, visit)
    status = jnp.where(
        end.state_step >= 0,
        Status.STATE_NOT_FINITE,
        jnp.where(end.costate_step >= 0, Status.COSTATE_NOT_FINITE, Status.OK),
    )
    step = jnp.where(end.state_step >= 0, end.state_step, end.costate_step)
    return Sweep(end.value, end.costate, end.buffers, Health(status, step, end.norms, end.direction_norms, end.unmoved))


def _finite(tree: PyTree) -> Array:
    # Leaf by leaf, because the square of a large finite number (the costate of a small second moment) overflows.
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
