"""What a traced function's outputs depend on: lets a loop keep out of its memory what does not change in it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree


def output_sources(jaxpr: Jaxpr) -> list[frozenset[int]]:
    """For each output the positions of the inputs it may depend on; never too few, sometimes too many."""
    known: dict[Any, frozenset[int]] = {variable: frozenset([i]) for i, variable in enumerate(jaxpr.invars)}
    nothing: frozenset[int] = frozenset()

    def sources(atom: Any) -> frozenset[int]:
        return nothing if isinstance(atom, Literal) else known.get(atom, nothing)

    for equation in jaxpr.eqns:
        operands = [sources(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if equation.primitive.name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"):
            body = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            if body is not None and len(body.invars) == len(operands):
                for variable, inside in zip(equation.outvars, output_sources(body), strict=True):
                    known[variable] = nothing.union(*(operands[i] for i in inside))
                continue
        for variable in equation.outvars:
            known[variable] = nothing.union(*operands)
    return [sources(atom) for atom in jaxpr.outvars]


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
        structures: list[Any] = []

        def flat(*arguments: PyTree) -> list[Any]:
            leaves, structure = jax.tree.flatten(function(*arguments))
            structures.append(structure)
            return leaves

        jaxpr = jax.make_jaxpr(flat)(*arguments).jaxpr
        self.structure = structures[0]
        changes = [flag for flag, tree in zip(varying, arguments, strict=True) for _ in jax.tree.leaves(tree)]
        position = {variable: i for i, variable in enumerate(jaxpr.invars)}
        atoms = [None if isinstance(atom, Literal) else atom for atom in jaxpr.outvars]
        self.argument = [position.get(atom) for atom in atoms]
        self.stored = [
            argument is None and any(changes[i] for i in inside)
            for argument, inside in zip(self.argument, output_sources(jaxpr), strict=True)
        ]
        # Outputs that depend on no varying argument are the same for these arguments as for those of any round.
        self.constant = jax.tree.leaves(function(*arguments))

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
