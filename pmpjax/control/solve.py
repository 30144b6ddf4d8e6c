"""The outer loop: improve the controls with the gradient that each costate sweep gives."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from pmpjax.control import observables as obs
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.costate import costate
from pmpjax.control.dynamics import Problem
from pmpjax.control.health import Status
from pmpjax.control.prox import Prox, check_feasible
from pmpjax.control.solvers import AbstractSolver, Evaluation, ProximalGradient, SolveState


class SolveStatus(enum.Enum):
    """Why `solve` ended."""

    CONVERGED = "converged: the residual is below the tolerance"
    BUDGET = "the budget of sweeps is used up"
    STALLED = "no step improves J any more: the step has shrunk to rounding"
    STOPPED = "stopped by the callback"
    DIVERGED = "the sweep at the first controls is not finite"
    NO_DERIVATIVE = "no control changes J: dJ/du is zero everywhere"


class Record(NamedTuple):
    """One sweep of the history. value is J of the trial, accepted or not; residual and gap are of the best so far."""

    sweep: int
    value: float
    accepted: bool
    residual: float
    gap: float
    step: float


class Progress(NamedTuple):
    """What a callback gets after each sweep; value, controls, seen and state are of the best controls so far."""

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
    these controls. state: to go on from, `solve(..., resume=solution.state)`. message: the status with its details.
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


Callback = Callable[[Progress], bool | None]


def descend(
    sweep: Callable[[PyTree], Evaluation],
    prox: Prox,
    controls: PyTree,
    solver: AbstractSolver = ProximalGradient(),
    *,
    sweeps: int = 100,
    tolerance: float = 1e-6,
    callback: Callback | None = None,
    resume: SolveState | None = None,
) -> Solution:
    """u <- prox(u - s dJ/du, s), s by backtracking on J: the loop of `solve` over any source of J and dJ/du.

    Args:
        sweep: controls -> `Evaluation`. Called outside of `jax.jit`: compile what it does. What it raises ends the
            loop.
        prox: the feasible set.
        controls, solver, sweeps, tolerance, callback, resume: as for `solve`.

    Returns:
        Solution; never worse than where it started.

    Raises:
        ValueError: naming the leaf of infeasible or non-finite controls; a solver that does not fit the set.

    Example:
        >>> import jax, jax.numpy as jnp, pmpjax as pmp
        >>> J = lambda u: jnp.sum((u - jnp.array([0.2, 0.5, 0.3])) ** 2)
        >>> sweep = lambda u: pmp.Evaluation(*jax.value_and_grad(J)(u))
        >>> pmp.descend(sweep, pmp.prox.simplex, pmp.uniform(3)).controls.round(3).tolist()
        [0.20000000298023224, 0.5, 0.30000001192092896]
    """
    solver.check(prox)
    init, propose, judge = (
        jax.jit(lambda *arguments, f=f: f(prox, *arguments)) for f in (solver.init, solver.propose, solver.judge)
    )
    history: list[Record] = []

    def stops(now: SolveState, trial: Evaluation, accepted: bool) -> bool:
        numbers = float(now.residual), float(now.gap), float(now.step)
        history.append(Record(int(now.sweeps), float(trial.value), accepted, *numbers))
        if callback is None:
            return False
        progress = Progress(
            int(now.sweeps), accepted, float(now.value), *numbers, controls=now.controls, seen=now.seen, state=now
        )
        return bool(callback(progress))

    def solution(now: SolveState, status: SolveStatus, detail: str = "") -> Solution:
        message = status.value + (f" ({detail})" if detail else "")
        numbers = float(now.value), float(now.residual), float(now.gap)
        return Solution(now.controls, *numbers, status, history, now.seen, now, message)

    if resume is None:
        controls = jax.tree.map(jnp.asarray, controls)
        check_feasible(prox, controls)
        trial = sweep(controls)
        now = init(controls, trial)
        if trial.health is not None and (status := int(trial.health.status)) != Status.OK:
            zero = status == Status.CONTROL_GRADIENT_ZERO
            return solution(now, SolveStatus.NO_DERIVATIVE if zero else SolveStatus.DIVERGED, trial.health.describe())
        sweeps -= 1
        if stops(now, trial, True):
            return solution(now, SolveStatus.STOPPED)
    else:
        now = resume
    for _ in range(sweeps):
        if float(now.residual) <= tolerance:
            break
        proposal = propose(now)
        trial = sweep(proposal.controls)
        before, now = now, judge(now, proposal, trial)
        accepted = int(now.accepted) > int(before.accepted)
        if stops(now, trial, accepted):
            return solution(now, SolveStatus.STOPPED)
        if not accepted and float(now.step) < solver.smallest_step:
            return solution(now, SolveStatus.STALLED)
    return solution(now, SolveStatus.CONVERGED if float(now.residual) <= tolerance else SolveStatus.BUDGET)


def evaluation(
    problem: Problem, adjoint: AbstractAdjoint, observe: PyTree
) -> Callable[[PyTree, PyTree, PyTree], Evaluation]:
    """(controls, x_0, inputs) -> `Evaluation` by one costate sweep, compiled.

    The data are arguments, because what a compiled function closes over becomes a constant inside it.
    """
    watched = {"gradient": obs.control_gradient, "observe": observe}

    def evaluate(controls: PyTree, state: PyTree, inputs: PyTree) -> Evaluation:
        sweep = costate(problem, state, controls, inputs, adjoint=adjoint, observe=watched)
        return Evaluation(sweep.value, sweep.seen["gradient"], sweep.health, sweep.seen["observe"])

    return jax.jit(evaluate)


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
    callback: Callback | None = None,
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
    evaluate = evaluation(problem, adjoint, observe)
    return descend(
        lambda u: evaluate(u, state, inputs),
        problem.prox,
        controls,
        solver,
        sweeps=sweeps,
        tolerance=tolerance,
        callback=callback,
        resume=resume,
    )
