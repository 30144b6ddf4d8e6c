"""Pontryagin's conditions as named checks with tolerances."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from pmpjax.control import observables as obs
from pmpjax.control import trees
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.costate import costate
from pmpjax.control.dynamics import Problem
from pmpjax.control.prox import Prox, check_feasible
from pmpjax.control.rollout import objective


class Spread(NamedTuple):
    """How far a step's examples are from contributing equally.

    used: sqrt(sum_n u_n (q_n - m)^2 / sum_n u_n) with m = sum_n u_n q_n / sum_n u_n: weighted standard deviation of
        the worth q over the examples in use.
    excess: max(0, max_n q_n - m): by how much the best example, in use or not, is worth more than those in use.
    scale: the root mean square of q over all examples, which makes both comparable over steps and problems.
    """

    used: Float[Array, "..."]
    excess: Float[Array, "..."]
    scale: Float[Array, "..."]


def spread_of(worth: Float[Array, "... n"], weights: Float[Array, "... n"]) -> Spread:
    """The `Spread` of contributions along the last axis; all zero when the examples in use contribute equally and no
    other is worth more, as Pontryagin's conditions on the simplex say.

    Source: Learning Law (arXiv 2402.17759), Theorem: equal contributions on the support, smaller ones off it.

    Example:
        >>> import jax.numpy as jnp
        >>> found = spread_of(jnp.array([2.0, 2.0, 1.0]), jnp.array([0.5, 0.5, 0.0]))
        >>> float(found.used), float(found.excess)
        (0.0, 0.0)
    """
    mass = jnp.sum(weights, axis=-1)
    mean = jnp.sum(weights * worth, axis=-1) / mass
    deviation = worth - mean[..., None]
    return Spread(
        used=jnp.sqrt(jnp.sum(weights * jnp.square(deviation), axis=-1) / mass),
        excess=jnp.maximum(0.0, jnp.max(deviation, axis=-1)),
        scale=jnp.sqrt(jnp.mean(jnp.square(worth), axis=-1)),
    )


def stationarity_residual(prox: Prox, controls: PyTree, gradient: PyTree, value: ArrayLike) -> Array:
    """|u - prox(u - s g, s)| / |u| with s = |u| / max(|g|, |J| / 10|u|): dimensionless, zero at a stationary control.

    The step is as long as the controls, unless the whole gradient is so small that it could not change J = `value` by
    a tenth; then the residual falls with the gradient, as it must where no constraint holds it. For controls that
    are zero |u| counts as 1; for the entropic geometry s = 1 / max|g|, the step at which logits move by one. A scalar.
    """
    size = trees.norm(controls)
    size = jnp.where(size > 0, size, 1.0)
    if prox.geometry == "entropic":
        slope, scale = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(gradient)])), jnp.ones(())
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


@dataclasses.dataclass(frozen=True)
class PMPReport:
    """The checks of `verify`. True when every exact condition that applies holds; `str` shows a table.

    checks: in the order of `verify`'s docstring. convexity: "affine", "no violation in k probes" or "violated".
    health: the sweep's own words (`Health.describe`). value: J.
    """

    value: float
    checks: tuple[Check, ...]
    convexity: str
    health: str

    def __bool__(self) -> bool:
        return all(check.holds for check in self.checks if check.holds is not None)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are {', '.join(check.name for check in self.checks)}")

    def __str__(self) -> str:
        lines = [f"J = {self.value:.6g}; {self.health}"]
        for check in self.checks:
            verdict = {True: "holds", False: "FAILS", None: "information"}[check.holds]
            bound = f" <= {check.tolerance:.1e}" if check.holds is not None else ""
            lines.append(f"{check.name:<14} {check.value:10.3e}{bound:<12} {verdict:<12} {check.meaning}")
        lines.append(f"{'convexity':<14} {self.convexity} (of H in u, along random feasible segments)")
        return "\n".join(lines)


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
    checks = [_check("stationarity", residual, stationarity, "relative residual of the proximal step")]
    if prox.oracle is not None:
        relative = frank_wolfe_gap(prox, controls, gradient) / jnp.abs(value)
        checks.append(_check("gap", relative, gap, "Frank-Wolfe gap, relative to J"))
    if prox.on_simplex:
        worth = jax.tree.map(jnp.negative, gradient)
        checks.append(_check("kkt", _total_spread(worth, controls), kkt, "unequal worth along the costate"))
    return tuple(checks)


def consistency_check(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    gradient: PyTree,
    *,
    key: Array,
    tolerance: float | None = None,
) -> Check:
    """|<dJ/du, v> - (J(u + e v) - J(u - e v)) / 2e| relative to |dJ/du| |v| for a random v: two runs of the plant.

    What rounding of J explains is taken off; `meaning` says how much that is, so that a check which can see nothing
    shows it. `gradient` is the sweep's own; tolerance None is 1e-6 in float64 and 2e-2 below.
    """
    double = all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(controls))
    bound = tolerance if tolerance is not None else (1e-6 if double else 2e-2)
    error, allowed = _finite_difference_error(problem, state, controls, inputs, gradient, key)
    meaning = f"costate against a finite difference of J, beyond the {float(allowed):.0e} that J's rounding explains"
    return _check("consistency", error, bound, meaning)


def _check(name: str, value: Array | float, bound: float, meaning: str, exact: bool = True) -> Check:
    number = float(value)
    return Check(name, number, bound, (number <= bound) if exact else None, meaning)


def verify(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    *,
    adjoint: AbstractAdjoint = Checkpointed(),
    key: Array | None = None,
    probes: int = 4,
    consistency: float | None = None,
    stationarity: float = 1e-2,
    gap: float = 1e-2,
    kkt: float = 1e-1,
) -> PMPReport:
    """Are Pontryagin's conditions met at these controls?

    - consistency: |<dJ/du, v> - (J(u + e v) - J(u - e v)) / 2e| relative to |dJ/du| |v|, for random v: is the costate
      the derivative of J? This is the check to trust in reduced precision.
    - stationarity: `stationarity_residual`.
    - gap: `frank_wolfe_gap` relative to |J|, where the set is compact.
    - kkt: sum_t of `spread_of`(worth along the costate).used + .excess over sum_t of its scale, on the simplex.
    - law: the same along the gradient of the desired loss; the continuous-time statement, for information only.
    - convexity: whether H_t is convex in u_t along random feasible segments; with it, stationarity is a minimum of H.

    Args:
        problem, state, controls, inputs, adjoint: as for `costate`; controls concrete.
        key: for the random directions; `jax.random.key(0)` when None.
        probes: random segments for convexity.
        consistency, stationarity, gap, kkt: tolerances. `consistency` None is 1e-6 in float64, 2e-2 below, where a
            finite difference of J has few digits left.

    Raises:
        ValueError: as `costate`.

    Source: PDS (arXiv 2410.07064), Theorem 1; Learning Law (arXiv 2402.17759), Theorem.
    """
    key = jax.random.key(0) if key is None else key
    check_feasible(problem.prox, controls)
    observe = {"gradient": obs.control_gradient}
    if problem.cost.running is not None:
        observe["law"] = obs.alignment
    sweep = jax.jit(lambda x, u, w: costate(problem, x, u, w, adjoint=adjoint, observe=observe))(
        state, controls, inputs
    )
    gradient = sweep.seen["gradient"]
    checks = [
        consistency_check(problem, state, controls, inputs, gradient, key=key, tolerance=consistency),
        *conditions_at(problem.prox, controls, gradient, sweep.value, stationarity=stationarity, gap=gap, kkt=kkt),
    ]
    if "law" in sweep.seen and problem.prox.on_simplex:
        law = _total_spread(sweep.seen["law"], controls)
        checks.append(_check("law", law, kkt, "unequal contributions along grad J (continuous time)", exact=False))
    convexity = _convexity(problem, state, controls, inputs, adjoint, key, probes)
    return PMPReport(float(sweep.value), tuple(checks), convexity, sweep.health.describe())


def _total_spread(worth: PyTree, weights: PyTree) -> Array:
    spreads = [spread_of(q, u) for q, u in zip(jax.tree.leaves(worth), jax.tree.leaves(weights), strict=True)]
    total = sum(jnp.sum(s.used + s.excess) for s in spreads)
    return jnp.asarray(total / sum(jnp.sum(s.scale) for s in spreads))


def _random_like(tree: PyTree, key: Array) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def _finite_difference_error(
    problem: Problem, state: PyTree, controls: PyTree, inputs: PyTree, gradient: PyTree, key: Array
) -> tuple[Array, Array]:
    """(error beyond what rounding of J explains, what rounding explains), both relative to |dJ/du| |v|."""
    # Half of the direction follows the gradient, or in many dimensions a random one would see almost none of it.
    noise = _random_like(controls, key)
    size, slope = trees.norm(noise), trees.norm(gradient)
    along = jax.tree.map(lambda n, g: n / size + g / jnp.where(slope > 0, slope, 1.0), noise, gradient)
    epsilon = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(controls))).eps)
    reach = trees.norm(controls)
    reach = jnp.where(reach > 0, reach, 1.0)
    length = epsilon ** (1 / 3) * reach / trees.norm(along)
    value = jax.jit(lambda u, x, w: objective(problem, x, u, w))

    def moved(distance: Array) -> Array:
        return value(jax.tree.map(lambda u, v: u + distance * v, controls, along), state, inputs)

    ahead, behind = moved(length), moved(-length)
    size = (jnp.abs(ahead) + jnp.abs(behind)) / 2
    error = jnp.abs((ahead - behind) / (2 * length) - trees.inner(gradient, along))
    # At an unconstrained optimum the gradient vanishes: what rounding of J alone explains is no error there, and the
    # error is relative to a slope that would change J by at least a thousandth.
    rounding = 16 * epsilon * size / length
    slope = jnp.maximum(slope, 1e-3 * size / reach)
    scale = jnp.where(slope > 0, slope * trees.norm(along), 1.0)
    return jnp.maximum(error - rounding, 0.0) / scale, rounding / scale


def _convexity(
    problem: Problem,
    state: PyTree,
    controls: PyTree,
    inputs: PyTree,
    adjoint: AbstractAdjoint,
    key: Array,
    probes: int,
) -> Literal["affine", "violated"] | str:
    """Second differences of H_t along u_t + s (v - u_t), s = 0, 1/2, 1, for random feasible v and every t."""
    keys = jax.random.split(key, probes)

    def curvature(point: obs.Point) -> tuple[Array, Array]:
        def along(probe: Array) -> tuple[Array, Array]:
            noise = _random_like(point.control, jax.random.fold_in(probe, point.t))
            other = jax.tree.map(
                lambda u, n: problem.prox(problem.prox.coordinates(u) + n * jnp.mean(jnp.abs(u)), 1.0),
                point.control,
                noise,
            )

            def hamiltonian(s: float) -> Array:
                u = jax.tree.map(lambda a, b: a + s * (b - a), point.control, other)
                following = problem.dynamics.step(point.state, u, point.input)
                running = problem.cost.running
                cost = 0.0 if running is None else running(point.state, u, point.input)
                return cost + trees.inner(point.costate_next, trees.split(following)[0])

            start, middle, end = hamiltonian(0.0), hamiltonian(0.5), hamiltonian(1.0)
            scale = jnp.abs(start) + jnp.abs(end)
            return start - 2 * middle + end, scale * jnp.finfo(scale.dtype).eps * 64

        bends, noise = jax.lax.map(along, keys)
        return bends, noise

    sweep = jax.jit(lambda x, u, w: costate(problem, x, u, w, adjoint=adjoint, observe=curvature))(
        state, controls, inputs
    )
    bends, rounding = sweep.seen
    if bool(jnp.all(jnp.abs(bends) <= rounding)):
        return "affine"
    return "violated" if bool(jnp.any(bends < -rounding)) else f"no violation in {probes} probes"
