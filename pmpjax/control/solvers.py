"""How the outer loop proposes its next controls, and whether it keeps them: pure functions of a `SolveState`.

    state = solver.init(prox, controls, found)               # found: an `Evaluation` at the controls
    proposal = solver.propose(prox, state)                   # controls to try next
    state = solver.judge(prox, state, proposal, found)       # found: an `Evaluation` at proposal.controls

`descend` and `solve` are loops over these three.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.conditions import frank_wolfe_gap, stationarity_residual
from pmpjax.control.health import Health, Status
from pmpjax.control.prox import Prox


class Evaluation(NamedTuple):
    """What a sweep finds at some controls.

    value: J. gradient: dJ/du or an estimate of it, like the controls. health: whether to trust them; without it a
    finite value is trusted. seen: whatever else is to be known of the best controls.
    """

    value: Array
    gradient: PyTree
    health: Health | None = None
    seen: PyTree = None


class SolveState(NamedTuple):
    """Everything that the next step needs: a pytree of arrays, so that a run can be stored and resumed bit for bit.

    point: the solver's own coordinates of the controls (logits for `MirrorDescent`).
    controls, value, gradient, residual, gap, seen: at the best controls so far (J never rises).
    step: scale of the next trial's update. rule: state of the optax rule.
    sweeps: evaluations so far, refused trials included. accepted: trials accepted so far.
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


class Proposal(NamedTuple):
    """Controls to be tried, their point in the solver's coordinates, and the optax rule's state if they are kept."""

    point: PyTree
    controls: PyTree
    rule: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractSolver(abc.ABC):
    """One outer step, scaled by backtracking on J.

    A trial is accepted when J(trial) <= J - decrease * <g, u - trial> (Armijo's rule along the proximal arc); the
    sweep that tries it gives the next gradient too.

    step: scale of the first trial; None chooses it from the first gradient. The scale that serves is found within a few
        sweeps whatever the start.
    grow, shrink: factors after an accepted and a refused trial.
    decrease: share of the predicted decrease of J that a trial must deliver (Armijo).
    smallest_step: the loop ends as stalled below it.
    """

    step: float | None = None
    grow: float = 1.6
    shrink: float = 0.4
    decrease: float = 1e-4
    smallest_step: float = 1e-12

    def __post_init__(self) -> None:
        if not (self.grow >= 1.0 and 0.0 < self.shrink < 1.0):
            raise ValueError(f"grow {self.grow} and shrink {self.shrink}: expected grow >= 1 and 0 < shrink < 1")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step {self.step}: expected a positive one, or None to have it chosen")

    def check(self, prox: Prox) -> None:
        """Raise ValueError when the solver does not fit the feasible set."""

    def point(self, prox: Prox, controls: PyTree) -> PyTree:
        """The solver's coordinates of the controls."""
        return jax.tree.map(prox.coordinates, controls)

    def init_rule(self, controls: PyTree) -> PyTree:
        """The state of the step rule."""
        return ()

    def limit(self, step: Array) -> Array:
        """The largest step allowed."""
        return step

    @abc.abstractmethod
    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        """Scale of the first trial where `step` is None, a scalar."""

    @abc.abstractmethod
    def propose(self, prox: Prox, state: SolveState) -> Proposal:
        """The next controls to try."""

    def init(self, prox: Prox, controls: PyTree, found: Evaluation) -> SolveState:
        """The state at the first controls."""
        step = self.first_step(controls, found.gradient) if self.step is None else jnp.asarray(self.step)
        return SolveState(
            point=self.point(prox, controls),
            controls=controls,
            value=found.value,
            gradient=found.gradient,
            residual=stationarity_residual(prox, controls, found.gradient, found.value),
            gap=frank_wolfe_gap(prox, controls, found.gradient),
            step=self.limit(step.astype(trees.norm(controls).dtype)),
            rule=self.init_rule(controls),
            sweeps=jnp.int32(1),
            accepted=jnp.int32(1),
            seen=found.seen,
        )

    def judge(self, prox: Prox, state: SolveState, proposal: Proposal, found: Evaluation) -> SolveState:
        """The state at the proposed controls where they lower J enough, else the old one with a smaller step."""
        # Never negative, or a trial uphill would be let through with a small rise of J.
        way = jax.tree.map(jnp.subtract, state.controls, proposal.controls)
        predicted = jnp.maximum(trees.inner(state.gradient, way), 0.0)
        accepted = jnp.isfinite(found.value) & (found.value <= state.value - self.decrease * predicted)
        if found.health is not None:
            # A trial at which J no longer changes is one to be tried: the next residual says so.
            status = found.health.status
            accepted &= (status == Status.OK) | (status == Status.CONTROL_GRADIENT_ZERO)
        sweeps = state.sweeps + 1
        kept = self.init(prox, proposal.controls, found)._replace(
            point=proposal.point,
            step=self.limit(state.step * self.grow),
            rule=proposal.rule,
            sweeps=sweeps,
            accepted=state.accepted + 1,
        )
        return trees.select(accepted, kept, state._replace(step=state.step * self.shrink, sweeps=sweeps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AbstractRuled(AbstractSolver):
    """A step along -g, or along what an optax rule makes of g where that leads downhill."""

    rule: optax.GradientTransformation | None = None

    def init_rule(self, controls: PyTree) -> PyTree:
        return () if self.rule is None else jax.tree.map(jnp.asarray, self.rule.init(controls))

    @abc.abstractmethod
    def moved(self, prox: Prox, state: SolveState, update: PyTree) -> tuple[PyTree, PyTree]:
        """(point, controls) after a step along an update of the point."""

    @abc.abstractmethod
    def downhill(self, prox: Prox, state: SolveState, update: PyTree) -> Array:
        """Whether J falls along an update, to first order."""

    def propose(self, prox: Prox, state: SolveState) -> Proposal:
        update, rule = jax.tree.map(jnp.negative, state.gradient), state.rule
        if self.rule is not None:
            ruled, rule = self.rule.update(state.gradient, state.rule, state.point)
            downhill = self.downhill(prox, state, ruled)
            update = trees.select(downhill, ruled, update)
            rule = trees.select(downhill, rule, self.init_rule(state.controls))
        return Proposal(*self.moved(prox, state, update), rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProximalGradient(_AbstractRuled):
    """u <- prox(v, s), v = u + s d, with d = -g = -dJ/du, or what an optax rule makes of g.

    rule: an optax transformation as the step rule (momentum, Adam, ...), its learning rate 1 or the like, since
        backtracking scales the update; None is plain gradient. Where a rule's update leads uphill (momentum that
        overshoots) the plain gradient is tried in its place and the rule starts afresh; where a trial is refused the
        step shrinks and the rule's state is left as it was.
    lazy: v <- v + s d without the projection in between, u = prox(v, s): dual averaging. What the projection cuts off
        is not forgotten, and `SolveState.point` is the sum of all steps.

    Source: Xiao, Dual averaging methods (2010), section 2, for `lazy`.
    """

    lazy: bool = False

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        if self.rule is not None:
            return jnp.ones(())
        # The update is at first as long as a tenth of the controls, or 0.1 where they are zero.
        size = trees.norm(controls)
        return 0.1 * jnp.where(size > 0, size, 1.0) * _reciprocal(trees.norm(gradient))

    def moved(self, prox: Prox, state: SolveState, update: PyTree) -> tuple[PyTree, PyTree]:
        point = jax.tree.map(lambda z, d: z + state.step * d, state.point, update)
        controls = jax.tree.map(lambda z: prox(z, state.step), point)
        return point if self.lazy else self.point(prox, controls), controls

    def downhill(self, prox: Prox, state: SolveState, update: PyTree) -> Array:
        way = jax.tree.map(jnp.subtract, state.controls, self.moved(prox, state, update)[1])
        return trees.inner(state.gradient, way) > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirrorDescent(_AbstractRuled):
    """z <- z - s g, u = softmax(z) along the last axis: exponentiated gradient on the simplex.

    The logits z are the state, so that a weight which underflows to zero can return. Fits problems on the simplex
    (`prox.simplex` or `prox.entropic`).

    rule: an optax transformation that makes the update of the logits of g, its learning rate 1 or the like;
        `optax.sgd(1.0, momentum=0.7)` with `grow=1.25, shrink=0.5` needs a third fewer sweeps on the Learning Law's
        perceptron than None, plain mirror descent. Where its update leads uphill, plain -g is taken and the rule
        starts afresh.
    """

    def check(self, prox: Prox) -> None:
        if not prox.on_simplex:
            raise ValueError(
                f"MirrorDescent steps on the simplex, but the problem's set is '{prox.name}'; "
                "use Problem(prox=pmpjax.prox.simplex) or ProximalGradient"
            )

    def point(self, prox: Prox, controls: PyTree) -> PyTree:
        # A weight of exactly zero gets the logit of the smallest normal number: it can still return.
        return jax.tree.map(lambda u: jnp.log(jnp.maximum(u, jnp.finfo(u.dtype).tiny)), controls)

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        return _reciprocal(trees.largest(gradient))  # no logit moves by more than one at first

    def moved(self, prox: Prox, state: SolveState, update: PyTree) -> tuple[PyTree, PyTree]:
        logits = jax.tree.map(lambda z, d: jax.nn.log_softmax(z + state.step * d, axis=-1), state.point, update)
        return logits, jax.tree.map(jnp.exp, logits)

    def downhill(self, prox: Prox, state: SolveState, update: PyTree) -> Array:
        def slope(u: Array, g: Array, d: Array) -> Array:
            # d softmax(z)/dz maps d to u (d - <u, d>)
            return jnp.sum(u * g * (d - jnp.sum(u * d, axis=-1, keepdims=True)))

        slopes = jax.tree.leaves(jax.tree.map(slope, state.controls, state.gradient, update))
        return sum(slopes, start=jnp.zeros(())) < 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrankWolfe(AbstractSolver):
    """u <- u + s (v - u), v = argmin_{v in set} <g, v>, 0 < s <= 1: projection-free, for compact sets."""

    def check(self, prox: Prox) -> None:
        _oracle(prox)

    def limit(self, step: Array) -> Array:
        return jnp.minimum(step, 1.0)

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        return jnp.full((), 0.1)

    def propose(self, prox: Prox, state: SolveState) -> Proposal:
        vertices = jax.tree.map(_oracle(prox), state.gradient)
        controls = jax.tree.map(lambda u, v: u + state.step * (v - u), state.controls, vertices)
        return Proposal(self.point(prox, controls), controls, state.rule)


def _oracle(prox: Prox) -> Callable[[Array], Array]:
    if prox.oracle is None:
        raise ValueError(
            f"FrankWolfe needs a compact set with a linear minimisation oracle, but the problem's is '{prox.name}'; "
            "use prox.simplex or prox.box"
        )
    return prox.oracle


def _reciprocal(value: Array) -> Array:
    return jnp.where(value > 0, 1.0 / value, 1.0)
