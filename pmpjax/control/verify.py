"""`verify`: are Pontryagin's conditions met, and is the costate the derivative of J?"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import observables as obs
from pmpjax.control import trees
from pmpjax.control.adjoint import AbstractAdjoint, Checkpointed
from pmpjax.control.conditions import Check, conditions_at, relative_spread
from pmpjax.control.costate import costate
from pmpjax.control.dynamics import Problem
from pmpjax.control.prox import check_feasible
from pmpjax.control.rollout import objective


@dataclasses.dataclass(frozen=True)
class PMPReport:
    """The checks of `verify`. True when every exact condition that applies holds; `str` shows a table.

    checks: in the order of `verify`'s docstring. convexity: "affine", "no violation in k probes" or "violated".
    health: the sweep's description (`Health.describe`). value: J.
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
    - kkt: sum_t of `spread_of`(contributions along the costate).used + .excess over sum_t of its scale, on the simplex.
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
    observe = {"gradient": obs.control_gradient, "convexity": _second_differences(problem, key, probes)}
    if problem.cost.running is not None and problem.prox.on_simplex:
        observe["law"] = obs.alignment
    sweep = jax.jit(lambda x, u, w: costate(problem, x, u, w, adjoint=adjoint, observe=observe))(
        state, controls, inputs
    )
    gradient = sweep.seen["gradient"]
    checks = [
        consistency_check(problem, state, controls, inputs, gradient, key=key, tolerance=consistency),
        *conditions_at(problem.prox, controls, gradient, sweep.value, stationarity=stationarity, gap=gap, kkt=kkt),
    ]
    if "law" in sweep.seen:
        spread = relative_spread(sweep.seen["law"], controls)
        meaning = "unequal contributions along grad J (continuous time)"
        checks.append(Check.of("law", spread, kkt, meaning, exact=False))
    bends, rounding = sweep.seen["convexity"]
    if bool(jnp.all(jnp.abs(bends) <= rounding)):
        convexity = "affine"
    else:
        convexity = "violated" if bool(jnp.any(bends < -rounding)) else f"no violation in {probes} probes"
    return PMPReport(float(sweep.value), tuple(checks), convexity, sweep.health.describe())


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
    # Half of the direction follows the gradient, or in many dimensions a random one would see almost none of it.
    noise = trees.normal_like(controls, key)
    size, slope = trees.norm(noise), trees.norm(gradient)
    direction = jax.tree.map(lambda n, g: n / size + g / jnp.where(slope > 0, slope, 1.0), noise, gradient)
    epsilon = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(controls))).eps)
    reach = trees.norm(controls)
    reach = jnp.where(reach > 0, reach, 1.0)
    length = epsilon ** (1 / 3) * reach / trees.norm(direction)
    value = jax.jit(lambda u, x, w: objective(problem, x, u, w))
    ahead, behind = (
        value(jax.tree.map(lambda u, v: u + step * v, controls, direction), state, inputs) for step in (length, -length)
    )
    size = (jnp.abs(ahead) + jnp.abs(behind)) / 2
    error = jnp.abs((ahead - behind) / (2 * length) - trees.inner(gradient, direction))
    # At an unconstrained optimum the gradient vanishes: what rounding of J alone explains is no error there, and the
    # error is relative to a slope that would change J by at least a thousandth.
    rounding = 16 * epsilon * size / length
    slope = jnp.maximum(slope, 1e-3 * size / reach)
    scale = jnp.where(slope > 0, slope * trees.norm(direction), 1.0)
    if tolerance is None:
        tolerance = 1e-6 if all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(controls)) else 2e-2
    allowed = f"the {float(rounding / scale):.0e} that J's rounding explains"
    meaning = f"costate against a finite difference of J, beyond {allowed}"
    return Check.of("consistency", jnp.maximum(error - rounding, 0.0) / scale, tolerance, meaning)


def _second_differences(problem: Problem, key: Array, probes: int) -> obs.Observable:
    """Of H_t along u_t + s (v - u_t), s = 0, 1/2, 1, for random feasible v, and what rounding explains: [T, probes]."""

    def at(point: obs.Point) -> tuple[Array, Array]:
        def hamiltonian(control: PyTree) -> Array:
            following = problem.dynamics.step(point.state, control, point.input)
            running = problem.cost.running
            cost = 0.0 if running is None else running(point.state, control, point.input)
            return cost + trees.inner(point.costate_next, trees.partition(following)[0])

        def feasible(u: Array, noise: Array) -> Array:
            return problem.prox(problem.prox.coordinates(u) + noise * jnp.mean(jnp.abs(u)), 1.0)

        def along(probe: Array) -> tuple[Array, Array]:
            noise = trees.normal_like(point.control, jax.random.fold_in(probe, point.t))
            end = jax.tree.map(feasible, point.control, noise)
            middle = jax.tree.map(lambda a, b: (a + b) / 2, point.control, end)
            first, between, last = map(hamiltonian, (point.control, middle, end))
            scale = jnp.abs(first) + jnp.abs(last)
            return first - 2 * between + last, scale * jnp.finfo(scale.dtype).eps * 64

        return jax.lax.map(along, jax.random.split(key, probes))

    return obs.Observable(at)
