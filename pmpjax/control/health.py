"""Whether a sweep's numbers can be trusted: what was first not finite, how far the costate grew, what was left out."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Cotangents, StepHealth, Transition
from pmpjax.control.observables import Point


class Status(enum.IntEnum):
    """What became of a sweep: fine, or what was first not finite. The forward run comes first, from t = 0 on; then the
    reverse sweep, from T on. `CONTROL_GRADIENT_ZERO`: all is finite, and no control changes J."""

    OK = 0
    STATE_NOT_FINITE = 1
    COST_NOT_FINITE = 2
    LOSS_NOT_FINITE = 3
    GRADIENT_NOT_FINITE = 4
    COST_DERIVATIVE_NOT_FINITE = 5
    STEP_DERIVATIVE_NOT_FINITE = 6
    COSTATE_NOT_FINITE = 7
    CONTROL_GRADIENT_NOT_FINITE = 8
    CONTROL_GRADIENT_ZERO = 9


_UNSTABLE = 1e3
_TEXTS = {
    Status.STATE_NOT_FINITE: "x_t is not finite from step {t} on, though losses and gradients before it are",
    Status.COST_NOT_FINITE: "the cost (in training the desired loss) is not finite at step {t}",
    Status.LOSS_NOT_FINITE: "a training loss is not finite at step {t}",
    Status.GRADIENT_NOT_FINITE: "the training losses of step {t} are finite, their gradient is not; look for a root, a "
    "norm or a division at zero in the losses",
    Status.COST_DERIVATIVE_NOT_FINITE: "the cost of step {t} is finite, its derivative is not; look for a root, a norm "
    "or a division at zero in the desired loss",
    Status.STEP_DERIVATIVE_NOT_FINITE: "the optimizer's update has no finite derivative at step {t}; use another rule",
    Status.COSTATE_NOT_FINITE: "the costate is not finite from step {t} back",
    Status.CONTROL_GRADIENT_NOT_FINITE: "dJ/du is not finite at step {t}, though the costate is",
    Status.CONTROL_GRADIENT_ZERO: "finite, but dJ/du is zero everywhere",
}


class Health(NamedTuple):
    """Whether a sweep's numbers can be trusted.

    status: a `Status`, integer scalar. step: its t, -1 where it has none.
    norms: |lambda_t| for t = 0 .. T, [T + 1]. state_sizes: the largest entry of |x_t|, [T + 1].
    parameter_norms: |lambda_{t+1}| for t = 0 .. T-1, [T], in training over the parameters alone: the costate of Adam's
        second moment is huge by nature. Growth on the way back means a plant whose step is too large for its
        curvature, even where the loss looks fine.
    singular: for each parameter leaf the largest number of coordinates, over the steps, whose derivative was left out
        although an example has a gradient there; None for dynamics that leave nothing out.
    """

    status: Int[Array, ""]
    step: Int[Array, ""]
    norms: Float[Array, " nodes"]
    state_sizes: Float[Array, " nodes"]
    parameter_norms: Float[Array, " steps"]
    singular: PyTree

    @property
    def growth(self) -> float:
        """max_t parameter_norms over the last one that is not zero; reads the arrays, so not under jit."""
        norms = [norm for norm in self.parameter_norms.tolist() if norm]
        return max(norms) / norms[-1] if norms else 1.0

    @property
    def explodes(self) -> bool:
        """Whether a smaller step size is the remedy: what is not finite, or the costate, grew a thousandfold before."""
        return self._growth_before() > _UNSTABLE

    def describe(self) -> str:
        """One sentence for a person; reads the arrays, so not under jit."""
        status = Status(int(self.status))
        if status == Status.OK:
            text = f"finite; the costate grew {self.growth:.3g}-fold at most on its way back"
            if self.explodes:
                text += ": the plant is unstable for the costate; lower the step size"
        else:
            text = _TEXTS[status].format(t=int(self.step)) + self._hint(status)
        left_out = [(name, int(n)) for name, n in trees.named_leaves(self.singular, "") if int(n)]
        if left_out:
            where = ", ".join(f"{n} coordinates of {name}" for name, n in left_out)
            text += f"; the optimizer has no derivative at {where}, which were left out: set eps_root, or start from a "
            text += "warm optimizer state"
        return text

    def _hint(self, status: Status) -> str:
        if status == Status.CONTROL_GRADIENT_ZERO:
            if jnp.max(self.norms) == 0:
                return ": the costate is zero too, so J does not depend on the state, or is at its optimum"
            return (
                ": no control reaches what J depends on: each example's gradient is zero, or the optimizer takes its "
                "sign alone, as lion and rprop do"
            )
        if self.explodes:
            what = "states" if status <= Status.GRADIENT_NOT_FINITE else "costates"
            return f"; before it the {what} grew {self._growth_before():.3g}-fold: lower the step size"
        if status in (Status.COST_NOT_FINITE, Status.LOSS_NOT_FINITE):
            return ", while the state is: look at what it reads at that step, and at its logarithms and divisions"
        return ""

    def _growth_before(self) -> float:
        """How far states (ahead of the step) or costates (behind it) grew on the way to what is not finite."""
        status, t = Status(int(self.status)), int(self.step)
        if status in (Status.OK, Status.CONTROL_GRADIENT_ZERO):
            return self.growth
        ahead = status <= Status.GRADIENT_NOT_FINITE
        norms = self.state_sizes[: t + 1] if ahead else self.parameter_norms[t:][::-1]
        positive = [norm for norm in norms.tolist() if 0 < norm < float("inf")]
        return max(positive) / positive[0] if positive else 1.0


class Log(NamedTuple):
    """What a sweep writes down of each step: one row of numbers a node t = 0 .. T, and the counts so far.

    Few numbers in the loop, where a small operation costs as much as a small plant's step: details only where something
    is not finite. last: the row written last. suspect: x_t of the step at which something stops being finite.
    """

    rows: Float[Array, "nodes columns"]
    last: Float[Array, " columns"]
    singular: PyTree
    suspect: PyTree


_COLUMNS = ("norm", "state_size", "parameter_norm", "cost", "control_gradient")
_DETAILS = ("cost_derivative", "cotangent", "costate")
_NORM, _STATE, _COSTATE = 0, 1, len(_COLUMNS) + 2
_AHEAD = {Status.STATE_NOT_FINITE: "state_size", Status.COST_NOT_FINITE: "cost"}
_BEHIND = {
    Status.COST_DERIVATIVE_NOT_FINITE: "cost_derivative",
    Status.STEP_DERIVATIVE_NOT_FINITE: "cotangent",
    Status.COSTATE_NOT_FINITE: "costate",
    Status.CONTROL_GRADIENT_NOT_FINITE: "control_gradient",
}


def start_log(horizon: int, state: PyTree, cost: Array, costate: PyTree, step: Cotangents) -> Log:
    """The log with the row of T: x_T, phi(x_T) and lambda_T = grad phi. `step`: shapes of what a step gives."""
    state, cost, costate = jax.lax.stop_gradient((state, cost, costate))
    derivative = trees.largest(costate)
    size = trees.largest(trees.partition(state)[0])
    row = _row(trees.norm(costate), size, 0.0, cost, 0.0, derivative, 0.0, derivative)
    rows = jnp.zeros((horizon + 1, len(row)), row.dtype).at[horizon].set(row)
    return Log(rows, row, None if step.health is None else trees.zeros_of(step.health.singular), state)


def record(log: Log, point: Point, cost: Array, costate: PyTree, health: StepHealth | None) -> Log:
    """The log with the row of step t: what is seen at `point`, l_t and lambda_t."""
    # The roots of these norms have no derivative at zero, which must not reach one who differentiates a sweep.
    log, point, cost, costate, health = jax.lax.stop_gradient((log, point._replace(vjp=None), cost, costate, health))
    seen = _row(
        trees.norm(costate),
        trees.largest(trees.partition(point.state)[0]),
        trees.norm(point.costate_next) if health is None else health.costate_norm,
        cost,
        trees.largest(point.control_gradient),
    )

    def detailed() -> tuple[Array, PyTree]:
        parts = point.running_gradient, point.gradient_cotangent, costate
        details = _row(*map(trees.largest, parts))
        breaks = jnp.isfinite(seen[_STATE]) & ~jnp.isfinite(log.last[_STATE])
        breaks |= jnp.isfinite(log.last[_COSTATE]) & ~jnp.isfinite(details[-1])
        return details, trees.select(breaks, point.state, log.suspect)

    fine = jnp.isfinite(seen[_NORM] + seen[_STATE] + log.last[_STATE])
    details, suspect = jax.lax.cond(fine, lambda: (jnp.zeros(len(_DETAILS), seen.dtype), log.suspect), detailed)
    row = jnp.concatenate([seen, details])
    singular = None if health is None else jax.tree.map(jnp.maximum, log.singular, health.singular)
    return Log(trees.put(log.rows, row, point.t), row, singular, suspect)


def _row(*numbers: ArrayLike) -> Array:
    dtype = jnp.zeros(()).dtype
    return jnp.stack([jnp.asarray(number).astype(dtype) for number in numbers])


def health_of(log: Log, transition: Transition) -> Health:
    """The log of all steps, read: what was first not finite, in the order of `Status`."""
    columns = dict(zip(_COLUMNS + _DETAILS, log.rows.T, strict=True))
    bad = {name: ~jnp.isfinite(column) for name, column in columns.items()}
    status, step = _first(_AHEAD, bad)
    back, node = _first(_BEHIND, {name: flags[::-1] for name, flags in bad.items()})
    back = jnp.where(
        (back == Status.OK) & jnp.all(columns["control_gradient"] == 0), Status.CONTROL_GRADIENT_ZERO, back
    )
    ahead = status > 0
    status = jnp.where(ahead, status, back).astype(jnp.int32)
    step = jnp.where(ahead, step, jnp.where(node < 0, -1, len(log.rows) - 1 - node)).astype(jnp.int32)
    status, step = _cause(status, step, log.suspect, transition)
    norms = columns["norm"], columns["state_size"], columns["parameter_norm"][:-1]
    return Health(status, step, *norms, log.singular)


def _first(watched: dict[Status, str], bad: dict[str, Bool[Array, " nodes"]]) -> tuple[Array, Array]:
    """(status, node) of the first node at which one is bad, OK and -1 where none is; the first one watched wins."""
    flags = jnp.stack([bad[name] for name in watched.values()], axis=1)
    node = jnp.argmax(jnp.any(flags, axis=1))
    status = jnp.asarray(list(watched))[jnp.argmax(flags[node])]
    return jnp.where(jnp.any(flags), status, Status.OK), jnp.where(jnp.any(flags), node, -1)


def _cause(status: Array, step: Array, suspect: PyTree, transition: Transition) -> tuple[Array, Array]:
    """The losses or the gradient of the step before a state, or of a costate, that is not finite, if they are not."""
    finite = transition.problem.dynamics.finite
    if finite is None:
        return status, step
    forward = (status == Status.STATE_NOT_FINITE) & (step > 0)
    t = jnp.maximum(jnp.where(forward, step - 1, step), 0)

    def asked() -> tuple[Array, Array]:
        losses, gradient = finite(suspect, transition.control(t), transition.input(t))
        found = jnp.where(losses, jnp.where(gradient, status, Status.GRADIENT_NOT_FINITE), Status.LOSS_NOT_FINITE)
        return found.astype(status.dtype), jnp.where(losses & gradient, step, t)

    back = (status == Status.STEP_DERIVATIVE_NOT_FINITE) | (status == Status.COSTATE_NOT_FINITE)
    return jax.lax.cond(forward | back, asked, lambda: (status, step))
