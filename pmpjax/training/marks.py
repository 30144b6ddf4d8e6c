"""Which coordinates of a function's arguments have an infinite slope that acts on its result.

The traced operations are gone through backwards with two questions about each entry of each array. Does it act on the
result? The branch of a `where` that is not taken does not. Does an operation of infinite slope read it? An entry
answers for its own root, and all entries of a norm for the norm's root; a number that many roots share, such as a step
size, for none.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, PyTree

from pmpjax.control.tracing import called
from pmpjax.training.guarded import INFINITE_SLOPES, every_value, read, slopes_of

_ELEMENTWISE = INFINITE_SLOPES | {
    *("add", "add_any", "sub", "mul", "neg", "square", "exp", "exp2", "expm1", "tanh", "logistic", "abs", "erf"),
    *("sin", "cos", "convert_element_type", "copy", "reduce_precision"),
}
_FLAT = frozenset({"sign", "floor", "ceil", "round", "stop_gradient"})  # of slope zero
_CHOICES = frozenset({"max", "min", "select_n", "clamp"})
_REARRANGEMENTS = frozenset(
    {"reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "concatenate", "rev", "reduce_sum"}
)


class Mark(NamedTuple):
    """Of each entry of an array whether it acts on the result, and whether an infinite slope reads it; booleans."""

    acts: Array
    singular: Array


def singular_coordinates(function: Callable[..., PyTree], *arguments: PyTree) -> tuple[PyTree, ...]:
    """Like `arguments`, True at the coordinates through which an infinite slope acts on the result of `function`.

    Example:
        >>> clipped = lambda g: jnp.where(jnp.sqrt(g @ g) < 1, g, g / jnp.sqrt(g @ g))
        >>> normed = lambda g: g / jnp.sqrt(jnp.sum(g**2))
        >>> [singular_coordinates(f, jnp.zeros(2))[0].tolist() for f in (clipped, normed)]
        [[False, False], [True, True]]
    """
    traced = jax.make_jaxpr(function)(*arguments)
    outputs = [Mark(jnp.ones(v.aval.shape, bool), jnp.zeros(v.aval.shape, bool)) for v in traced.jaxpr.outvars]
    marks = _backward(traced.jaxpr, traced.consts, jax.tree.leaves(arguments), outputs)
    return jax.tree.unflatten(jax.tree.structure(arguments), [mark.singular for mark in marks])


def _backward(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], outputs: Sequence[Mark]) -> list[Mark]:
    """The marks of `arguments` from those of the results."""
    values, marks = every_value(jaxpr, constants, arguments), {}

    def add(atom: Any, mark: Mark) -> None:
        if not isinstance(atom, Literal):
            marks[atom] = jax.tree.map(jnp.logical_or, marks[atom], mark) if atom in marks else mark

    def mark_of(variable: Any) -> Mark:
        nothing = jnp.zeros(variable.aval.shape, bool)
        return marks.get(variable, Mark(nothing, nothing))

    for variable, mark in zip(jaxpr.outvars, outputs, strict=True):
        add(variable, mark)
    for equation in reversed(jaxpr.eqns):
        operands = [read(values, atom) for atom in equation.invars]
        found = _operand_marks(equation, operands, [mark_of(variable) for variable in equation.outvars])
        for atom, mark in zip(equation.invars, found, strict=True):
            add(atom, mark)
    return [mark_of(variable) for variable in jaxpr.invars]


def _operand_marks(equation: Any, operands: list[Any], outputs: list[Mark]) -> list[Mark]:
    """The marks of an operation's operands from those of its results."""
    name, params = equation.primitive.name, equation.params
    if (inside := called(equation)) is not None:
        return _backward(inside.jaxpr, inside.consts, operands, outputs)
    if name == "cond":
        branches = [functools.partial(_backward, inner.jaxpr, inner.consts) for inner in params["branches"]]
        return [_mixed(outputs, operands[0]), *jax.lax.switch(operands[0], branches, operands[1:], outputs)]
    if name in _FLAT:
        return [_mixed([], operand) for operand in operands]
    if name in _CHOICES:
        chosen = _chosen(name, operands)
        marks = [Mark(outputs[0].acts & where, outputs[0].singular & where) for where in chosen]
        return list(map(_narrowed, marks, operands))
    if name in _REARRANGEMENTS:
        return _rearranged(equation, operands, outputs[0])
    if name in INFINITE_SLOPES:
        acts, singular = outputs[0]
        marks = [Mark(acts, singular | (acts & ~jnp.isfinite(slope))) for slope in slopes_of(equation, operands)]
        return list(map(_narrowed, marks, operands))
    if name in _ELEMENTWISE:
        return [_narrowed(outputs[0], operand) for operand in operands]
    return [_mixed(outputs, operand) for operand in operands]


def _mixed(outputs: list[Mark], operand: Any) -> Mark:
    """For an operation that may mix all entries: each acts where a result does, and none answers for another."""
    acts = functools.reduce(jnp.logical_or, [jnp.any(mark.acts) for mark in outputs], jnp.array(False))
    return Mark(jnp.broadcast_to(acts, jnp.shape(operand)), jnp.zeros(jnp.shape(operand), bool))


def _narrowed(mark: Mark, operand: Any) -> Mark:
    """For an elementwise operation, whose operand may be a number that all entries share."""
    return mark if jnp.shape(operand) == mark.acts.shape else _mixed([mark], operand)


def _chosen(name: str, operands: list[Any]) -> list[Any]:
    """For each operand of a choice where it is the one that is taken."""
    if name == "select_n":
        which, *cases = operands
        return [False, *(which == case for case in range(len(cases)))]
    if name == "clamp":
        low, x, high = operands
        return [x < low, (x >= low) & (x <= high), x > high]
    left, right = operands
    ahead, behind = left >= right, right >= left  # of two equals both
    first, second = (ahead, behind) if name == "max" else (behind, ahead)
    return [first | jnp.isnan(left), second | jnp.isnan(right)]


def _rearranged(equation: Any, operands: list[Any], output: Mark) -> list[Mark]:
    """Marks go where a cotangent would."""
    bind = functools.partial(equation.primitive.bind, **equation.params)
    result, transpose = jax.vjp(bind, *(jnp.zeros(jnp.shape(operand)) for operand in operands))
    acts, singular = ([c != 0 for c in transpose(part.astype(result.dtype))] for part in output)
    if equation.primitive.name == "broadcast_in_dim" and result.size != jnp.size(operands[0]):
        singular = [jnp.zeros_like(part) for part in singular]
    return list(map(Mark, acts, singular))
