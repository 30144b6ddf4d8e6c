"""The outer loop: improve the controls with the gradient that each costate sweep gives."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import observables as obs
from pmpjax.control import trees
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.conditions import frank_wolfe_gap, stationarity_residual
from pmpjax.control.costate import costate
from pmpjax.control.dynamics import Problem
from pmpjax.control.health import Health, Status
from pmpjax.control.prox import check_feasible
from pmpjax.control.solvers import AbstractSolver, ProximalGradient


class SolveStatus(enum.Enum):
    """Why `solve` ended."""

    CONVERGED = "converged: the residual is below the tolerance"
    BUDGET = "the budget of sweeps is used up"
    STALLED = "no step improves J any more: the step has shrunk to rounding"
    STOPPED = "stopped by the callback"
    DIVERGED = "the sweep at the first controls is not finite"
    NO_DERIVATIVE = "no control changes J: dJ/du is zero everywhere"


class SolveState(NamedTuple):
    """Everything that the next sweep needs: a pytree of arrays, so that a run can be stored and resumed bit for bit.

    point: the solver's own coordinates of the controls (logits for `MirrorDescent`).
    controls, value, gradient, residual, gap, seen: at the best controls so far (J never rises).
    step: scale of the next trial's update. rule: state of the optax rule.
    sweeps: costate sweeps so far, trials included. accepted: trials accepted so far.
    """

    point: PyTree
    controls: PyTree
    value: Array
    gradient: PyTree
    residual: Array
    gap: Array
    step: Array
    rule: PyTree
    sweeps: Array
    accepted: Array
    seen: PyTree


class Record(NamedTuple):
    """One sweep of the history. value is J of the trial, accepted or not; residual and gap are of the best so far."""

    sweep: int
    value: float
    accepted: bool
    residual: float
    gap: float
    step: float


class Progress(NamedTuple):
    """What a callback sees after each sweep; `controls`, `seen` and `state` are of the best controls so far."""

    sweep: int
    accepted: bool
    value: float
    residual: float
    gap: float
    step: float
    controls: PyTree
    seen: PyTree
    state: SolveState


class Solution(NamedTuple):
    """The best controls found.

    controls: like the first ones. value: J. residual: `stationarity_residual`. gap: `frank_wolfe_gap`, nan without a
    compact set. status: a `SolveStatus`. history: a `Record` for each sweep of this call. seen: the observables at
    these controls. state: to go on from, `solve(..., state=solution.state)`. message: the status with its details.
    """

    controls: PyTree
    value: float
    residual: float
    gap: float
    status: SolveStatus
    history: list[Record]
    seen: PyTree
    state: SolveState
    message: str


class _Evaluated(NamedTuple):
    value: Array
    gradient: PyTree
    residual: Array
    gap: Array
    seen: PyTree
    health: Health


class Iteration(NamedTuple):
    """The two compiled functions of `solve`: (controls or state so far, x_0, inputs) -> (state, trial).

    The data are arguments, because what a compiled function closes over becomes a constant inside it.
    """

    first: Callable[[PyTree, PyTree, PyTree], tuple[SolveState, _Evaluated]]
    next: Callable[[SolveState, PyTree, PyTree], tuple[SolveState, _Evaluated]]


def iteration(
    problem: Problem,
    solver: AbstractSolver,
    adjoint: AbstractAdjoint,
    observe: PyTree,
) -> Iteration:
    """Build and jit one outer iteration: propose a trial, sweep it, accept it or shrink the step.

    A trial is accepted when J(trial) <= J - decrease * <g, u - trial> (Armijo's rule along the proximal arc); the
    sweep that tries it gives the next gradient too.
    """
    watched = {"gradient": obs.control_gradient, "observe": observe}

    def evaluate(controls: PyTree, state: PyTree, inputs: PyTree) -> _Evaluated:
        sweep = costate(problem, state, controls, inputs, adjoint=adjoint, observe=watched)
        gradient = sweep.seen["gradient"]
        return _Evaluated(
            value=sweep.value,
            gradient=gradient,
            residual=stationarity_residual(problem.prox, controls, gradient, sweep.value),
            gap=frank_wolfe_gap(problem.prox, controls, gradient),
            seen=sweep.seen["observe"],
            health=sweep.health,
        )

    def first(controls: PyTree, state: PyTree, inputs: PyTree) -> tuple[SolveState, _Evaluated]:
        found = evaluate(controls, state, inputs)
        start = SolveState(
            point=solver.point(problem.prox, controls),
            controls=controls,
            value=found.value,
            gradient=found.gradient,
            residual=found.residual,
            gap=found.gap,
            step=solver.first_step(controls, found.gradient),
            rule=solver.init_rule(controls),
            sweeps=jnp.int32(1),
            accepted=jnp.int32(1),
            seen=found.seen,
        )
        return start, found

    def following(now: SolveState, state: PyTree, inputs: PyTree) -> tuple[SolveState, _Evaluated]:
        point, controls, rule = solver.propose(problem.prox, now.point, now.controls, now.gradient, now.step, now.rule)
        found = evaluate(controls, state, inputs)
        # Never negative, or a trial uphill would be let through with a small rise of J.
        predicted = jnp.maximum(trees.inner(now.gradient, jax.tree.map(jnp.subtract, now.controls, controls)), 0.0)
        # A trial at which J no longer changes is one to be tried: the next residual says so.
        finite = (found.health.status == Status.OK) | (found.health.status == Status.CONTROL_GRADIENT_ZERO)
        accepted = finite & (found.value <= now.value - solver.decrease * predicted)
        accepted &= jnp.isfinite(found.value)
        trial = SolveState(
            point=point,
            controls=controls,
            value=found.value,
            gradient=found.gradient,
            residual=found.residual,
            gap=found.gap,
            step=solver.limit(now.step * solver.grow),
            rule=rule,
            sweeps=now.sweeps + 1,
            accepted=now.accepted + 1,
            seen=found.seen,
        )
        refused = now._replace(step=now.step * solver.shrink, sweeps=now.sweeps + 1)
        return trees.select(accepted, trial, refused), found

    return Iteration(jax.jit(first), jax.jit(following))


def solve(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    solver: AbstractSolver = ProximalGradient(),
    *,
    adjoint: AbstractAdjoint = Checkpointed(),
    sweeps: int = 100,
    tolerance: float = 1e-6,
    observe: PyTree = None,
    callback: Callable[[Progress], bool | None] | None = None,
    resume: SolveState | None = None,
) -> Solution:
    """min_u J(u) over the set of `problem.prox`: u <- prox(u - s dJ/du, s), s by backtracking on J.

    A Python loop over one compiled sweep; interrupt it from the callback (or by Ctrl-C) and go on from its state.

    Args:
        problem, state, inputs: as for `costate`.
        controls: where to start, feasible. Left alone when `resume` is given.
        solver: `ProximalGradient()`, `MirrorDescent()` (on the simplex: by far the best for weights) or `FrankWolfe()`.
        adjoint: how each sweep keeps its states.
        sweeps: budget of costate sweeps in this call, trials that backtrack included.
        tolerance: stop when the stationarity residual falls below.
        observe: observables, evaluated in each sweep.
        callback: called with a `Progress` after each sweep; returning True stops.
        resume: a `SolveState` of an earlier call (`Solution.state`, `Progress.state`): the run goes on as if it had
            never stopped, bit for bit on the same machine.

    Returns:
        Solution; never worse than where it started.

    Raises:
        ValueError: naming the leaf of infeasible or non-finite controls; a solver that does not fit the set; a shape
            error, as `costate`.

    Source: Learning Law (arXiv 2402.17759), section 4.1 (projected gradient); the entropic geometry is Nemirovski and
    Yudin's mirror descent.

    Example:
        >>> import jax.numpy as jnp, pmpjax as pmp
        >>> target = jnp.array([0.2, 0.5, 0.3])
        >>> problem = pmp.Problem(
        ...     pmp.Dynamics(jnp.asarray, lambda x, u, w: x + u),
        ...     pmp.Cost(terminal=lambda x: jnp.sum((x - target) ** 2)), prox=pmp.prox.simplex
        ... )
        >>> solution = pmp.solve(problem, jnp.zeros(3), pmp.uniform(1, 3), None, pmp.MirrorDescent(), sweeps=60)
        >>> bool(jnp.allclose(solution.controls[0], target, atol=1e-3))
        True
    """
    solver.check(problem.prox)
    step = iteration(problem, solver, adjoint, observe)
    history: list[Record] = []

    def report(now: SolveState, trial: _Evaluated, accepted: bool) -> bool:
        record = Record(
            int(now.sweeps), float(trial.value), accepted, float(now.residual), float(now.gap), float(now.step)
        )
        history.append(record)
        if callback is None:
            return False
        seen = Progress(
            record.sweep, accepted, float(now.value), *record[3:], controls=now.controls, seen=now.seen, state=now
        )
        return bool(callback(seen))

    def solution(now: SolveState, status: SolveStatus, detail: str = "") -> Solution:
        message = status.value + (f" ({detail})" if detail else "")
        numbers = float(now.value), float(now.residual), float(now.gap)
        return Solution(now.controls, *numbers, status, history, now.seen, now, message)

    budget = sweeps
    if resume is None:
        controls = jax.tree.map(jnp.asarray, controls)
        check_feasible(problem.prox, controls)
        now, trial = step.first(controls, state, inputs)
        budget -= 1
        if int(trial.health.status) == Status.CONTROL_GRADIENT_ZERO:
            return solution(now, SolveStatus.NO_DERIVATIVE, trial.health.describe())
        if int(trial.health.status) != Status.OK:
            return solution(now, SolveStatus.DIVERGED, trial.health.describe())
        if report(now, trial, True):
            return solution(now, SolveStatus.STOPPED)
    else:
        now = resume
    for _ in range(budget):
        if float(now.residual) <= tolerance:
            return solution(now, SolveStatus.CONVERGED)
        before = int(now.accepted)
        now, trial = step.next(now, state, inputs)
        accepted = int(now.accepted) > before
        if report(now, trial, accepted):
            return solution(now, SolveStatus.STOPPED)
        if not accepted and float(now.step) < solver.smallest_step:
            return solution(now, SolveStatus.STALLED)
    status = SolveStatus.CONVERGED if float(now.residual) <= tolerance else SolveStatus.BUDGET
    return solution(now, status)
