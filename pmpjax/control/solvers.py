"""How the outer loop proposes its next controls. Frozen dataclasses; `solve` supplies gradients and backtracking."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.prox import Prox


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractSolver(abc.ABC):
    """One outer step, scaled by backtracking on J.

    step: scale of the first trial; None chooses it from the first gradient. The scale that serves is found within a few
        sweeps whatever the start.
    grow, shrink: factors after an accepted and a refused trial.
    decrease: share of the predicted decrease of J that a trial must deliver (Armijo).
    smallest_step: `solve` ends as stalled below it.
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
        """Scale of the first trial, a scalar."""

    @abc.abstractmethod
    def propose(
        self, prox: Prox, point: PyTree, controls: PyTree, gradient: PyTree, step: Array, rule: PyTree
    ) -> tuple[PyTree, PyTree, PyTree]:
        """(point, controls, rule) of the next trial."""


def _largest(tree: PyTree) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _reciprocal(value: Array) -> Array:
    return jnp.where(value > 0, 1.0 / value, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProximalGradient(AbstractSolver):
    """u <- prox(u - s d, s) with d = g = dJ/du, or what an optax rule makes of g.

    rule: an optax transformation as the step rule (momentum, Adam, ...), its learning rate 1 or the like, since
        backtracking scales the update; None is plain gradient. Where a rule's update leads uphill (momentum that
        overshoots) the plain gradient is tried in its place and the rule starts afresh; where a trial is refused the
        step shrinks and the rule's state is left as it was.
    """

    rule: optax.GradientTransformation | None = None

    def init_rule(self, controls: PyTree) -> PyTree:
        return () if self.rule is None else jax.tree.map(jnp.asarray, self.rule.init(controls))

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        if self.step is not None:
            return jnp.asarray(self.step, trees.norm(controls).dtype)
        if self.rule is not None:
            return jnp.ones((), trees.norm(controls).dtype)
        # The update is at first as long as a tenth of the controls, or 0.1 where they are zero.
        size = trees.norm(controls)
        return 0.1 * jnp.where(size > 0, size, 1.0) * _reciprocal(trees.norm(gradient))

    def propose(
        self, prox: Prox, point: PyTree, controls: PyTree, gradient: PyTree, step: Array, rule: PyTree
    ) -> tuple[PyTree, PyTree, PyTree]:
        def moved(update: PyTree) -> PyTree:
            return jax.tree.map(lambda u, d: prox(prox.coordinates(u) + step * d, step), controls, update)

        trial = moved(jax.tree.map(jnp.negative, gradient))
        if self.rule is not None:
            update, next_rule = self.rule.update(gradient, rule, controls)
            ruled = moved(update)
            downhill = trees.inner(gradient, jax.tree.map(jnp.subtract, controls, ruled)) > 0
            trial = trees.select(downhill, ruled, trial)
            rule = trees.select(downhill, next_rule, self.init_rule(controls))
        return self.point(prox, trial), trial, rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirrorDescent(AbstractSolver):
    """z <- z - s g, u = softmax(z) along the last axis: exponentiated gradient on the simplex.

    The logits z are the state, so that a weight which underflows to zero can return. Fits problems on the simplex
    (`prox.simplex` or `prox.entropic`).

    rule: an optax transformation that makes the update of the logits of g, its learning rate 1 or the like;
        `optax.sgd(1.0, momentum=0.7)` with `grow=1.25, shrink=0.5` needs a third fewer sweeps on the Learning Law's
        perceptron than None, plain mirror descent. Where its update leads uphill, plain -g is taken and the rule
        starts afresh.
    """

    rule: optax.GradientTransformation | None = None

    def init_rule(self, controls: PyTree) -> PyTree:
        return () if self.rule is None else jax.tree.map(jnp.asarray, self.rule.init(controls))

    def check(self, prox: Prox) -> None:
        if prox.name not in ("simplex", "entropic"):
            raise ValueError(
                f"MirrorDescent steps on the simplex, but the problem's set is '{prox.name}'; "
                "use Problem(prox=pmpjax.prox.simplex) or ProximalGradient"
            )

    def point(self, prox: Prox, controls: PyTree) -> PyTree:
        # A weight of exactly zero gets the logit of the smallest normal number: it can still return.
        return jax.tree.map(lambda u: jnp.log(jnp.maximum(u, jnp.finfo(u.dtype).tiny)), controls)

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        if self.step is not None:
            return jnp.asarray(self.step, trees.norm(controls).dtype)
        # No logit moves by more than one at first.
        return _reciprocal(_largest(gradient))

    def propose(
        self, prox: Prox, point: PyTree, controls: PyTree, gradient: PyTree, step: Array, rule: PyTree
    ) -> tuple[PyTree, PyTree, PyTree]:
        update = jax.tree.map(jnp.negative, gradient)
        if self.rule is not None:
            ruled, next_rule = self.rule.update(gradient, rule, point)

            def slope(u: Array, g: Array, d: Array) -> Array:
                # d softmax(z)/dz maps d to u (d - <u, d>)
                return jnp.sum(u * g * (d - jnp.sum(u * d, axis=-1, keepdims=True)))

            slopes = jax.tree.leaves(jax.tree.map(slope, controls, gradient, ruled))
            downhill = sum(slopes, start=jnp.zeros(())) < 0
            update = trees.select(downhill, ruled, update)
            rule = trees.select(downhill, next_rule, self.init_rule(controls))
        logits = jax.tree.map(lambda z, d: jax.nn.log_softmax(z + step * d, axis=-1), point, update)
        return logits, jax.tree.map(jnp.exp, logits), rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrankWolfe(AbstractSolver):
    """u <- u + s (v - u), v = argmin_{v in set} <g, v>, 0 < s <= 1: projection-free, for compact sets."""

    def check(self, prox: Prox) -> None:
        if prox.oracle is None:
            raise ValueError(
                f"FrankWolfe needs a compact set with a linear minimisation oracle, but the problem's is "
                f"'{prox.name}'; use prox.simplex or prox.box"
            )

    def limit(self, step: Array) -> Array:
        return jnp.minimum(step, 1.0)

    def first_step(self, controls: PyTree, gradient: PyTree) -> Array:
        return jnp.asarray(0.1 if self.step is None else min(self.step, 1.0), trees.norm(controls).dtype)

    def propose(
        self, prox: Prox, point: PyTree, controls: PyTree, gradient: PyTree, step: Array, rule: PyTree
    ) -> tuple[PyTree, PyTree, PyTree]:
        oracle = prox.oracle
        if oracle is None:
            raise ValueError(f"the set '{prox.name}' has no linear minimisation oracle")
        trial = jax.tree.map(lambda u, g: u + step * (oracle(g) - u), controls, gradient)
        return self.point(prox, trial), trial, rule
