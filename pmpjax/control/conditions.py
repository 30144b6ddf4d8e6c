"""Pontryagin's conditions at some controls, from their control gradient alone."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from pmpjax.control import trees
from pmpjax.control.prox import Prox


class Spread(NamedTuple):
    """How far a step's examples are from contributing equally.

    used: sqrt(sum_n u_n (q_n - m)^2 / sum_n u_n) with m = sum_n u_n q_n / sum_n u_n: weighted standard deviation of
        the contributions q over the examples in use.
    excess: max(0, max_n q_n - m): by how much the best example, in use or not, contributes more than those in use.
    scale: the root mean square of q over all examples, which makes both comparable over steps and problems.
    """

    used: Float[Array, "..."]
    excess: Float[Array, "..."]
    scale: Float[Array, "..."]


def spread_of(contributions: Float[Array, "... n"], weights: Float[Array, "... n"]) -> Spread:
    """The `Spread` of contributions along the last axis; all zero when the examples in use contribute equally and no
    other contributes more, as Pontryagin's conditions on the simplex say.

    Source: Learning Law (arXiv 2402.17759), Theorem: equal contributions on the support, smaller ones off it.

    Example:
        >>> import jax.numpy as jnp
        >>> found = spread_of(jnp.array([2.0, 2.0, 1.0]), jnp.array([0.5, 0.5, 0.0]))
        >>> float(found.used), float(found.excess)
        (0.0, 0.0)
    """
    mass = jnp.sum(weights, axis=-1)
    mean = jnp.sum(weights * contributions, axis=-1) / mass
    deviation = contributions - mean[..., None]
    return Spread(
        used=jnp.sqrt(jnp.sum(weights * jnp.square(deviation), axis=-1) / mass),
        excess=jnp.maximum(0.0, jnp.max(deviation, axis=-1)),
        scale=jnp.sqrt(jnp.mean(jnp.square(contributions), axis=-1)),
    )


def relative_spread(contributions: PyTree, weights: PyTree) -> Array:
    """sum_t of `spread_of`'s used + excess over sum_t of its scale, all leaves together; a scalar."""
    leaves = zip(jax.tree.leaves(contributions), jax.tree.leaves(weights), strict=True)
    spreads = [spread_of(q, u) for q, u in leaves]
    unequal = sum((jnp.sum(spread.used + spread.excess) for spread in spreads), start=jnp.zeros(()))
    return unequal / sum(jnp.sum(spread.scale) for spread in spreads)


def stationarity_residual(prox: Prox, controls: PyTree, gradient: PyTree, value: ArrayLike) -> Array:
    """|u - prox(u - s g, s)| / |u| with s = |u| / max(|g|, |J| / 10|u|): dimensionless, zero at a stationary control.

    The step is as long as the controls, unless the whole gradient is so small that it could not change J = `value` by
    a tenth; then the residual falls with the gradient, as it must where no constraint holds it. For controls that
    are zero |u| counts as 1; for the entropic geometry s = 1 / max|g|, the step at which logits move by one. A scalar.
    """
    size = trees.norm(controls)
    size = jnp.where(size > 0, size, 1.0)
    if prox.geometry == "entropic":
        slope, scale = trees.largest(gradient), jnp.ones(())
    else:
        slope, scale = trees.norm(gradient), size
    slope = jnp.maximum(slope, 0.1 * jnp.abs(value) / size)
    step = jnp.where(slope > 0, scale / slope, 0.0)
    moved = jax.tree.map(lambda u, g: u - prox(prox.coordinates(u) - step * g, step), controls, gradient)
    return trees.norm(moved) / size


def frank_wolfe_gap(prox: Prox, controls: PyTree, gradient: PyTree) -> Array:
    """max_{v in set} <g, u - v> >= 0, an upper bound on what a linear model of J can still gain; NaN without a compact
    set. A scalar in the units of J."""
    if prox.oracle is None:
        return jnp.full((), jnp.nan)
    oracle = prox.oracle
    if prox.on_simplex:
        # The best vertex picks the smallest gradient of each row: no one-hot matrix is formed.
        gaps = jax.tree.map(lambda u, g: jnp.sum(jnp.sum(u * g, axis=-1) - jnp.min(g, axis=-1)), controls, gradient)
        return sum(jax.tree.leaves(gaps), start=jnp.zeros(()))
    return trees.inner(gradient, jax.tree.map(lambda u, g: u - oracle(g), controls, gradient))


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition. value: what was found, nan when it does not apply. holds: None for information only."""

    name: str
    value: float
    tolerance: float
    holds: bool | None
    meaning: str

    @classmethod
    def of(cls, name: str, value: Array, tolerance: float, meaning: str, *, exact: bool = True) -> "Check":
        """Whether `value` is within its tolerance; for information only where it is not an exact condition."""
        number = float(value)
        return cls(name, number, tolerance, number <= tolerance if exact else None, meaning)


def conditions_at(
    prox: Prox,
    controls: PyTree,
    gradient: PyTree,
    value: ArrayLike,
    *,
    stationarity: float = 1e-2,
    gap: float = 1e-2,
    kkt: float = 1e-1,
) -> tuple[Check, ...]:
    """The conditions that a gradient dJ/du at the controls decides by itself, without another sweep.

    `stationarity`, `gap` where the set is compact, and `kkt` on the simplex, as in `verify`. `gradient` may be an
    estimate; `value` is J.

    Example:
        >>> from pmpjax import prox
        >>> checks = conditions_at(prox.simplex, jnp.array([0.5, 0.5, 0.0]), jnp.array([-1.0, -1.0, 0.0]), 2.0)
        >>> [(check.name, check.holds) for check in checks]
        [('stationarity', True), ('gap', True), ('kkt', True)]
    """
    residual = stationarity_residual(prox, controls, gradient, value)
    checks = [Check.of("stationarity", residual, stationarity, "relative residual of the proximal step")]
    if prox.oracle is not None:
        relative = frank_wolfe_gap(prox, controls, gradient) / jnp.abs(value)
        checks.append(Check.of("gap", relative, gap, "Frank-Wolfe gap, relative to J"))
    if prox.on_simplex:
        spread = relative_spread(jax.tree.map(jnp.negative, gradient), controls)
        checks.append(Check.of("kkt", spread, kkt, "unequal contributions along the costate"))
    return tuple(checks)
