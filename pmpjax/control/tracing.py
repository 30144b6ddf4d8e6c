"""Traced functions taken apart: which functions an operation calls, and what a function's outputs depend on."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}  # operations that only call a function, and the parameter that holds it


def as_closed(jaxpr: Any) -> ClosedJaxpr:
    """The function that an operation's parameter holds."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, [])


def called(equation: Any) -> ClosedJaxpr | None:
    """The function that an operation does nothing but call, None where it is another operation."""
    name = _CALLS.get(equation.primitive.name)
    return None if name is None else as_closed(equation.params[name])


def varying_outputs(jaxpr: Jaxpr, varying: list[bool]) -> list[bool]:
    """For each output whether it may depend on an input that varies; never wrongly False, sometimes wrongly True."""
    varies = dict(zip(jaxpr.invars, varying, strict=True))

    def read(atom: Any) -> bool:
        return not isinstance(atom, Literal) and varies.get(atom, False)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        inside = called(equation)
        found = [any(operands)] * len(equation.outvars) if inside is None else varying_outputs(inside.jaxpr, operands)
        varies |= zip(equation.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


class Residuals:
    """How to keep the array leaves of `function(*arguments)`, a pytree, for every round of a loop.

    A leaf that is an argument itself, or depends on no argument in `varying`, need not be stored for each round: it
    can be read from the argument again, or computed once. Weights and batches of a training step are leaves of the
    first kind, a full batch of the second; together they are most of what a linearised step would otherwise copy.

    Args:
        function: traced once here with `arguments`.
        arguments: example arguments, pytrees of arrays.
        varying: for each argument whether it changes from round to round.
    """

    def __init__(self, function: Callable[..., PyTree], arguments: tuple[PyTree, ...], varying: tuple[bool, ...]):
        # Outputs that depend on no varying argument are the same for these arguments as for those of any round.
        self.constant, self.structure = jax.tree.flatten(function(*arguments))
        jaxpr = jax.make_jaxpr(lambda *given: jax.tree.leaves(function(*given)))(*arguments).jaxpr
        changes = [flag for flag, tree in zip(varying, arguments, strict=True) for _ in jax.tree.leaves(tree)]
        position = {variable: i for i, variable in enumerate(jaxpr.invars)}
        self.argument = [None if isinstance(atom, Literal) else position.get(atom) for atom in jaxpr.outvars]
        varies = varying_outputs(jaxpr, changes)
        self.stored = [flag and source is None for flag, source in zip(varies, self.argument, strict=True)]

    def pack(self, tree: PyTree) -> list[Any]:
        """The leaves that have to be stored for a round."""
        return [leaf for leaf, keep in zip(jax.tree.leaves(tree), self.stored, strict=True) if keep]

    def unpack(self, kept: list[Any], arguments: tuple[PyTree, ...]) -> PyTree:
        """The tree of a round from what was stored for it and the round's arguments."""
        remaining, flat = iter(kept), jax.tree.leaves(arguments)
        leaves = [
            next(remaining) if keep else (constant if source is None else flat[source])
            for keep, source, constant in zip(self.stored, self.argument, self.constant, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)
