"""Where an optimizer's update has no derivative: the norm of a zero gradient, the root of a second moment that is zero.

Automatic differentiation multiplies local slopes. At such a point one of them is infinite, and what it multiplies is
zero: the product is NaN although the update may have a derivative there. `update_vjp` decides from slopes alone:

1. Plain automatic differentiation, wherever it is finite (`eps_root` set, every ordinary point).
2. Otherwise the same with 0 * infinity = 0 (`guarded`). That is the derivative wherever the infinite slope does not act
   on the result: a clip below its threshold, another coordinate's root.
3. A coordinate whose infinite slope does act, and whose derivative is another one at a thousandth of the gradient away,
   has a kink: g / (sqrt(g^2) + eps) at zero, Adam's first step, whose slope 1 / eps holds over no more than eps. It is
   left out: its update counts as a constant, its cotangent is zero, and it is reported.
4. A rule that asks whether a number is zero (Adagrad: where(s > 0, g / sqrt(s + eps), 0)) hides its slope there. At a
   coordinate without gradient the derivative is then that of the points around it, where these agree.
"""

import functools
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


class UpdateVjp(NamedTuple):
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


def update_vjp(
    update: Update, arguments: tuple[PyTree, PyTree, PyTree], cotangent: PyTree, plain: PyTree, points: Points
) -> UpdateVjp:
    """(d update / d arguments)^T cotangent, as the module says.

    Args:
        update: (constant, gradient, optimizer state, parameters) -> pytree; of the state its floating leaves alone.
            constant: like the parameters, True where the update of a parameter counts as one.
        arguments: gradient, optimizer state and parameters.
        cotangent: like what `update` returns.
        plain: what `jax.vjp` gives with no update constant.
        points: what `update` may meet, by `singular_points`.

    Returns:
        UpdateVjp. What is not finite for other reasons stays so: a rule without derivatives is no singular point.

    Example:
        >>> adam = lambda fixed, g, s, p: jnp.where(fixed, 0.0, g / (jnp.sqrt(g**2) + 1e-8))
        >>> none, at, one = jnp.zeros(2, bool), (jnp.array([0.0, 1.0]), (), ()), jnp.ones(2)
        >>> plain = jax.vjp(lambda *a: adam(none, *a), *at)[1](one)
        >>> found = update_vjp(adam, at, one, plain, singular_points(adam, none, *at))
        >>> found.singular.tolist(), float(found.cotangents[0][0])
        ([True, False], 0.0)
    """
    gradient, opt_state, params = arguments
    nowhere = jax.tree.map(lambda g: jnp.zeros(g.shape, bool), gradient)

    def careful() -> UpdateVjp:
        size = trees.largest(gradient)
        copy = guarded(update, nowhere, *arguments)
        marks = singular_coordinates(functools.partial(update, nowhere), *arguments)

        def next_to(distance: Array, constant: PyTree) -> tuple[PyTree, ...]:
            """The derivative where each coordinate without gradient is moved by so much of the largest one."""
            step = distance * jnp.where(size > 0, size, 1.0)
            moved = jax.tree.map(lambda g: jnp.where(g == 0, step.astype(g.dtype), g), gradient)
            return jax.vjp(functools.partial(copy, constant), moved, opt_state, params)[1](cotangent)

        def look(seen: _Seen, row: tuple[Array, Array]) -> tuple[_Seen, None]:
            which, distance = row
            now = next_to(distance, seen.kinks)
            here = trees.select(which == 0, (now[0], now[2]), seen.here)
            kinks = jax.tree.map(_kink, marks[0], here[0], now[0])
            kinks = trees.select(which == 1, kinks, seen.kinks)
            left = trees.select(which == 2, now[:2], seen.left)
            near = trees.select(which == 3, now[0], seen.near)
            agree = jax.tree.map(lambda a, x, y: a & ((which <= 3) | _close(x, y, 1e-3)), seen.agree, near, now[0])
            return _Seen(here, kinks, left, near, agree), None

        # One after the other, so that the update is compiled once and few derivatives are kept.
        distances = [0.0, _FAR, 0.0, _NEAR, -_NEAR, _NEAR / 8][: 6 if points.asked else 3]
        yes = jax.tree.map(lambda g: jnp.ones(g.shape, bool), gradient)
        start = _Seen((plain[0], plain[2]), nowhere, plain[:2], plain[0], yes)
        seen, _ = jax.lax.scan(look, start, (jnp.arange(len(distances)), jnp.asarray(distances, size.dtype)))
        found = jax.tree.map(lambda value, kink: jnp.where(kink, 0.0, value), seen.left[0], seen.kinks)
        if points.asked:
            found = jax.tree.map(_limit, found, seen.near, gradient, seen.agree, seen.kinks)
        return UpdateVjp((found, seen.left[1], seen.here[1]), seen.kinks)

    ordinary = trees.finite(plain)
    if points.asked:
        ordinary &= jnp.all(jnp.stack([jnp.all(g != 0) for g in jax.tree.leaves(gradient)]))
    return jax.lax.cond(ordinary, lambda: UpdateVjp(plain, nowhere), careful)


class _Seen(NamedTuple):
    """here: the derivative in gradient and parameters. kinks: of the gradient. left: the derivative in gradient and
    state with these left out. near: the gradient's part of it next to the point. agree: whether that is the same on
    the other side and nearer."""

    here: PyTree
    kinks: PyTree
    left: PyTree
    near: PyTree
    agree: PyTree


def _kink(mark: Array, here: Array, far: Array) -> Array:
    """A derivative half or twice of which is found far away; where there is none either, no kink explains that."""
    return mark & jnp.isfinite(far) & ~_close(here, far, 0.5)


def _limit(here: Array, near: Array, gradient: Array, agree: Array, kink: Array) -> Array:
    """The derivative around a point without gradient instead of the one at it, where there is one."""
    return jnp.where((gradient == 0) & ~kink & agree, near, here)


def _close(a: Array, b: Array, tolerance: float) -> Array:
    return jnp.abs(a - b) <= tolerance * jnp.maximum(jnp.abs(a), jnp.abs(b))
