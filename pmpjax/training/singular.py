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

        def compare(seen: _Seen, row: tuple[Array, Array]) -> tuple[_Seen, None]:
            which, distance = row
            now = next_to(distance)
            here = trees.select(which == 0, now, seen.here)
            far = trees.select(which == 1, jax.tree.map(_same_far, here, now), seen.same)
            near = trees.select(which == 2, now[0], seen.near)
            agree = jax.tree.map(lambda a, x, y: a & ((which <= 2) | _close(x, y, 1e-3)), seen.agree, near, now[0])
            return _Seen(here, far, near, agree), None

        # One after the other, so that the update is compiled once and no more than two derivatives are kept.
        distances = jnp.asarray([0.0, _FAR, _NEAR, -_NEAR, _NEAR / 8][: 5 if points.asked else 2], size.dtype)
        yes = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), plain)
        start = _Seen(plain, yes, plain[0], yes[0])
        seen, _ = jax.lax.scan(compare, start, (jnp.arange(len(distances)), distances))
        marks = singular_coordinates(update, *arguments)
        kinks = jax.tree.map(lambda mark, same: mark & ~same, marks, seen.same)
        found, *rest = jax.tree.map(lambda value, kink: jnp.where(kink, 0.0, value), seen.here, kinks)
        if points.asked:
            found = jax.tree.map(_limit, found, seen.near, gradient, seen.agree, kinks[0])
        return Pull((found, *rest), kinks[0])

    ordinary = trees.finite(plain)
    if points.asked:
        ordinary &= jnp.all(jnp.stack([jnp.all(g != 0) for g in jax.tree.leaves(gradient)]))
    return jax.lax.cond(ordinary, lambda: Pull(plain, nowhere), careful)


class _Seen(NamedTuple):
    """here: the derivative. same: whether it is nearly the same far away. near: the gradient's part of it next to the
    point. agree: whether that is the same on the other side and nearer."""

    here: PyTree
    same: PyTree
    near: PyTree
    agree: PyTree


def _same_far(here: Array, far: Array) -> Array:
    """Neither half nor twice of it; and where there is none far away either, no kink explains that."""
    return _close(here, far, 0.5) | ~jnp.isfinite(far)


def _limit(here: Array, near: Array, gradient: Array, agree: Array, kink: Array) -> Array:
    """The derivative around a point without gradient instead of the one at it, where there is one."""
    return jnp.where((gradient == 0) & ~kink & agree, near, here)


def _close(a: Array, b: Array, tolerance: float) -> Array:
    return jnp.abs(a - b) <= tolerance * jnp.maximum(jnp.abs(a), jnp.abs(b))
