"""Proximal operators: the feasible set of a control, and the geometry in which to step towards it.

Each acts on the last axis of an array (rows are independent) and knows three more things: whether a control lies in
its set, the linear minimisation oracle argmin_{v in set} <g, v> where the set is compact, and the coordinates in which
a gradient step is taken (the control itself for projections, its logarithm for the entropic one).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from pmpjax.control.trees import named_leaves


@dataclasses.dataclass(frozen=True, eq=False)
class Prox:
    """u = prox(v, step): the feasible control that answers the trial point v.

    name: for messages and reports.
    apply: (v, step) -> u.
    oracle: g -> argmin_{v in set} <g, v>, or None where the set is not compact.
    coordinates: u -> the point from which a gradient step is taken, v = coordinates(u) - step * gradient.
    violation: u -> scalar, how far u is outside the set (0 inside; not finite when u is not).
    geometry: "euclidean" (apply is a projection) or "entropic".
    """

    name: str
    apply: Callable[[Array, ArrayLike], Array]
    oracle: Callable[[Array], Array] | None
    coordinates: Callable[[Array], Array]
    violation: Callable[[Array], Array]
    geometry: str = "euclidean"

    def __call__(self, v: Array, step: ArrayLike = 1.0) -> Array:
        return self.apply(v, step)

    @property
    def on_simplex(self) -> bool:
        """Whether rows of controls are probability vectors."""
        return self.name in ("simplex", "entropic")


@jax.custom_jvp
def project_simplex(v: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """argmin_u |u - v|^2 over {u >= 0, sum(u) = 1}: u = max(v - tau, 0), one threshold tau a row.

    tau is the root of the convex decreasing g(tau) = sum(max(v - tau, 0)) - 1. Newton's method started left of the
    root climbs to it monotonically and ends exactly, after a few passes over the row, where a sort of the row would be
    many. Shape and dtype are kept. Differentiable in both modes.

    Source: C. Michelot, 1986 (finite algorithm for the projection onto the canonical simplex).

    Example:
        >>> import jax.numpy as jnp
        >>> project_simplex(jnp.array([1.0, 0.5, -1.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    # Rows are read relative to their largest entry, so that sums are exact to rounding of the result, not of the
    # input; the difference is formed again in each pass, because writing it out would cost more than a pass does.
    top = jnp.max(v, axis=-1, keepdims=True)

    def newton(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        threshold, _, passes = carry
        below_top = v - top
        above = below_top > threshold
        # One reduction for both sums: XLA's CPU backend would make two passes over memory of two reductions.
        total, size = jax.lax.reduce(
            (jnp.where(above, below_top, 0.0), above.astype(v.dtype)),
            (jnp.zeros((), v.dtype), jnp.zeros((), v.dtype)),
            lambda a, b: (a[0] + b[0], a[1] + b[1]),
            (v.ndim - 1,),
        )
        # The maximum keeps rounding from stepping back, which would cycle.
        return jnp.maximum(threshold, (total - 1.0)[..., None] / size[..., None]), threshold, passes + 1

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        threshold, previous, passes = carry
        return jnp.any(threshold > previous) & (passes < v.shape[-1] + 2)

    start = (jnp.full_like(top, -1.0), jnp.full_like(top, -jnp.inf), jnp.zeros((), jnp.int32))
    threshold, _, _ = jax.lax.while_loop(unfinished, newton, start)
    return jnp.maximum(v - top - threshold, 0.0)


@project_simplex.defjvp
def _project_simplex_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    projection = project_simplex(*primals)
    used = projection > 0
    # On the support tau moves with the mean of the entries, off it nothing moves.
    mean = jnp.sum(jnp.where(used, tangents[0], 0.0), axis=-1, keepdims=True) / jnp.sum(used, axis=-1, keepdims=True)
    return projection, jnp.where(used, tangents[0] - mean, 0.0)


def _simplex_oracle(gradient: Array) -> Array:
    return jax.nn.one_hot(jnp.argmin(gradient, axis=-1), gradient.shape[-1], dtype=gradient.dtype)


def _simplex_violation(u: Array) -> Array:
    return jnp.maximum(jnp.max(-u), jnp.max(jnp.abs(jnp.sum(u, axis=-1) - 1.0)))


def _none_violated(u: Array) -> Array:
    # 0 * u keeps what is not finite, so that NaN controls are seen also where every finite control is allowed.
    return jnp.sum(0.0 * u)


identity = Prox("identity", lambda v, step: v, None, lambda u: u, _none_violated)
"""No constraint: prox(v) = v."""

simplex = Prox("simplex", lambda v, step: project_simplex(v), _simplex_oracle, lambda u: u, _simplex_violation)
"""Each row a probability vector, by Euclidean projection (`project_simplex`)."""

entropic = Prox(
    "entropic",
    lambda v, step: jax.nn.softmax(v, axis=-1),
    _simplex_oracle,
    jnp.log,
    _simplex_violation,
    geometry="entropic",
)
"""Each row a probability vector, in the geometry of the entropy: prox(v) = argmin_{u in simplex} <u, log u - v>.

The answer is softmax(v). With v = log(u) - step * gradient this is the mirror (exponentiated gradient) step,
argmin_z step * <gradient, z> + KL(z | u). A weight that is exactly zero stays zero; `MirrorDescent` therefore keeps
the logits and never takes the logarithm of a weight that has underflowed.
"""


def box(lower: ArrayLike, upper: ArrayLike) -> Prox:
    """lower <= u <= upper, coordinate by coordinate; bounds broadcast against the control.

    Example:
        >>> import jax.numpy as jnp
        >>> box(0.0, 1.0)(jnp.array([-1.0, 0.25, 3.0])).tolist()
        [0.0, 0.25, 1.0]
    """
    if bool(jnp.any(jnp.asarray(lower) > jnp.asarray(upper))):
        raise ValueError(f"box: lower bound {lower} exceeds upper bound {upper}; swap them")

    def bounds(u: Array) -> tuple[Array, Array]:
        # Broadcast by name, so that bounds of a lower rank serve also where implicit rank promotion is refused.
        return (
            jnp.broadcast_to(jnp.asarray(lower, u.dtype), u.shape),
            jnp.broadcast_to(jnp.asarray(upper, u.dtype), u.shape),
        )

    def violation(u: Array) -> Array:
        low, high = bounds(u)
        return jnp.maximum(0.0, jnp.maximum(jnp.max(low - u), jnp.max(u - high)))

    return Prox(
        f"box({lower}, {upper})",
        lambda v, step: jnp.clip(v, *bounds(v)),
        lambda gradient: jnp.where(gradient > 0, *bounds(gradient)),
        lambda u: u,
        violation,
    )


def check_feasible(prox: Prox, controls: PyTree, tolerance: float = 1e-3) -> None:
    """Raise ValueError naming the leaf of the controls that is not finite or lies outside the set of `prox`.

    Traced controls have no values yet and pass; those that a trace closes over are checked.
    """
    for name, leaf in named_leaves(controls, "controls"):
        if isinstance(leaf, Tracer):
            continue
        with jax.ensure_compile_time_eval():  # known values stay known inside a trace that closes over them
            violation = float(prox.violation(jnp.asarray(leaf)))
            if violation <= tolerance:
                continue
            if violation == violation and violation != float("inf"):
                found = (
                    f"lies {violation:.3g} outside the set '{prox.name}' (smallest entry {float(jnp.min(leaf)):.3g})"
                )
            else:
                index = tuple(int(i) for i in jnp.argwhere(~jnp.isfinite(leaf), size=1)[0])
                found = f"is not finite, first at index {index}"
        raise ValueError(
            f"{name} {found}; start from a feasible control such as pmpjax.uniform(T, N), "
            "or apply the problem's prox to it first"
        )
