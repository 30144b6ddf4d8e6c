"""Where an optimizer's update has no derivative: the norm of a zero gradient, the root of a second moment that is zero.

Automatic differentiation multiplies local slopes. At such a point one of them is infinite, and what it multiplies is
zero: the product is NaN although the update may have a derivative there. `pull_through` decides from slopes alone:

1. Plain automatic differentiation, wherever it is finite (`eps_root` set, every ordinary point).
2. Otherwise the same with 0 * infinity = 0 (`guarded`). That is the derivative wherever the infinite slope does not act
   on the result: a clip below its threshold, another coordinate's root.
3. A coordinate whose infinite slope does act, and whose derivative is another one at a thousandth of the gradient away,
   has a kink: g / (sqrt(g^2) + eps) at zero, Adam's first step, whose slope 1 / eps holds over no more than eps. It is
   left out: set to zero and reported.
4. A rule that asks whether a number is zero (Adagrad: where(s > 0, g / sqrt(s + eps), 0)) hides its slope there. At a
   coordinate without gradient the derivative is then that of the points around it, where these agree.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.training.guarded import INFINITE_SLOPES, guarded, operations
from pmpjax.training.marks import singular_coordinates

Update = Callable[..., PyTree]

_FAR, _NEAR = 1e-3, 1e-9  # of the largest gradient: outside a kink, and next to a point
_COMPARISONS = frozenset({"gt", "lt", "ge", "le", "eq", "ne"})


class Points(NamedTuple):
    """What kinds of point an update may have. infinite: of infinite slope. asked: at which it takes another branch."""

    infinite: bool
    asked: bool


class Pull(NamedTuple):
    """cotangents: of the update's arguments. singular: like the first of them, True at the coordinates left out."""

    cotangents: tuple[PyTree, ...]
    singular: PyTree


def singular_points(update: Update, *arguments: PyTree) -> Points:
    """Whether `update` contains operations of infinite slope, and comparisons of real numbers; traced, not run.

    Example:
        >>> [singular_points(f, 1.0).infinite for f in (jnp.tanh, jnp.sqrt)]
        [False, True]
    """
    found = list(operations(jax.make_jaxpr(update)(*arguments).jaxpr))
    return Points(
        any(equation.primitive.name in INFINITE_SLOPES for equation in found),
        any(
            equation.primitive.name in _COMPARISONS and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating)
            for equation in found
        ),
    )


def pull_through(
    update: Update, arguments: tuple[PyTree, ...], cotangent: PyTree, plain: tuple[PyTree, ...], points: Points
) -> Pull:
    """(d update / d arguments)^T cotangent, as the module says.

    Args:
        update: (gradient, ...) -> pytree; floating leaves only, both ways.
        arguments: where.
        cotangent: like what `update` returns.
        plain: what `jax.vjp` gives.
        points: what `update` may meet, by `singular_points`.

    Returns:
        Pull. What is not finite for other reasons stays so: a rule without derivatives is no singular point.

    Example:
        >>> adam = lambda g: g / (jnp.sqrt(g**2) + 1e-8)
        >>> at, one = (jnp.array([0.0, 1.0]),), jnp.ones(2)
        >>> pull = pull_through(adam, at, one, jax.vjp(adam, *at)[1](one), singular_points(adam, *at))
        >>> pull.singular.tolist(), float(pull.cotangents[0][0])
        ([True, False], 0.0)
    """
    gradient, *others = arguments
    nowhere = jax.tree.map(lambda g: jnp.zeros(g.shape, bool), gradient)

    def careful() -> Pull:
        size = trees.largest(gradient)
        copy = guarded(update, *arguments)

        def next_to(distance: Array) -> tuple[PyTree, ...]:
            """The derivative where each coordinate without gradient is moved by so much of the largest one."""
            step = distance * jnp.where(size > 0, size, 1.0)
            moved = jax.tree.map(lambda g: jnp.where(g == 0, step.astype(g.dtype), g), gradient)
            return jax.vjp(copy, moved, *others)[1](cotangent)

        # One after the other, so that the update is compiled once.
        distances = jnp.asarray([0.0, _FAR, _NEAR, -_NEAR, _NEAR / 8][: 5 if points.asked else 2], size.dtype)
        rows = jax.lax.map(next_to, distances)
        here, far = (jax.tree.map(lambda row, i=i: row[i], rows) for i in (0, 1))
        kinks = jax.tree.map(_kink, here, far, singular_coordinates(update, *arguments))
        found, *rest = jax.tree.map(lambda value, kink: jnp.where(kink, 0.0, value), here, kinks)
        if points.asked:
            found = jax.tree.map(_limit, found, gradient, kinks[0], rows[0])
        return Pull((found, *rest), kinks[0])

    ordinary = trees.finite(plain)
    if points.asked:
        ordinary &= jnp.all(jnp.stack([jnp.all(g != 0) for g in jax.tree.leaves(gradient)]))
    return jax.lax.cond(ordinary, lambda: Pull(plain, nowhere), careful)


def _kink(here: Array, there: Array, singular: Array) -> Array:
    """Where a derivative is not finite, or less than half or more than twice what it is next to the point."""
    return singular & jnp.isfinite(there) & ~_close(here, there, 0.5)


def _limit(here: Array, gradient: Array, singular: Array, rows: Array) -> Array:
    """The derivative around a point without gradient instead of the one at it, where there is one."""
    right, left, nearer = rows[2:]
    agree = _close(right, left, 1e-3) & _close(right, nearer, 1e-3)
    return jnp.where((gradient == 0) & ~singular & agree, nearer, here)


def _close(a: Array, b: Array, tolerance: float) -> Array:
    return jnp.abs(a - b) <= tolerance * jnp.maximum(jnp.abs(a), jnp.abs(b))
