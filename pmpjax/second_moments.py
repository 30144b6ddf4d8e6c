"""Coordinates on which Adam-like rules have no slope, because they have never had a gradient.

Where gradient and second moment are both zero, d(update)/d(gradient) is 1/eps or NaN: the derivative of a square root
at zero. Such a coordinate does not move, yet it would dominate or poison every score.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from pmpjax.control import trees

SECOND_MOMENTS = frozenset({"nu", "sum_of_squares", "e_g"})
"""Names under which optax keeps second moments: Adam, RMSProp and their kin; Adagrad; Adadelta."""


class Unmoved(NamedTuple):
    """masks: like the parameters, True where there is no slope, None at leaves whose rule keeps no second moment.

    opt_state: the optimizer state with second moment 1 in place of 0 at these coordinates, where the update is zero
        all the same and has a finite derivative.
    counts: number of such coordinates a leaf, None as in masks.
    """

    masks: PyTree
    opt_state: PyTree
    counts: PyTree

    def without(self, direction: PyTree) -> PyTree:
        """`direction` with zeros at the coordinates that do not move."""
        return jax.tree.map(
            lambda mask, d: d if mask is None else jnp.where(mask, 0.0, d),
            self.masks,
            direction,
            is_leaf=lambda leaf: leaf is None,
        )


def unmoved_coordinates(gradients: PyTree, opt_state: PyTree, following: PyTree, params: PyTree) -> Unmoved:
    """Where the gradient, every moment before the step, and the second moment after it are zero.

    Args:
        gradients: like params.
        opt_state, following: the optimizer state before and after the update.
        params: the parameters.

    A state leaf belongs to the parameter whose path ends its own path and whose shape it has. Accumulated gradients
    (`optax.MultiSteps`) are such leaves too, so that a coordinate seen in an earlier micro-batch counts as moving.
    """
    names, structure = jax.tree.flatten_with_path(params)
    before, state_structure = jax.tree.flatten_with_path(opt_state)
    after = jax.tree.leaves(following)
    masks: list[Any] = []
    leaves = [leaf for _, leaf in before]
    for (path, param), gradient in zip(names, jax.tree.leaves(gradients), strict=True):
        owned = [
            i
            for i, (where, leaf) in enumerate(before)
            if len(where) > len(path)
            and where[len(where) - len(path) :] == path
            and getattr(where[len(where) - len(path) - 1], "name", None) is not None
            and leaf.shape == param.shape
            and trees.is_moving(leaf)
        ]
        second = [i for i in owned if before[i][0][len(before[i][0]) - len(path) - 1].name in SECOND_MOMENTS]
        if not second:
            masks.append(None)
            continue
        # Squares, because the second moment of a tiny gradient underflows to zero as well.
        zero = jnp.square(gradient) == 0
        for leaf in [before[i][1] for i in owned] + [after[i] for i in second]:
            zero &= jnp.square(leaf) == 0
        masks.append(zero)
        for i in second:
            leaves[i] = jnp.where(zero, jnp.ones_like(leaves[i]), leaves[i])
    return Unmoved(
        structure.unflatten(masks),
        state_structure.unflatten(leaves),
        structure.unflatten([None if mask is None else jnp.sum(mask, dtype=jnp.int32) for mask in masks]),
    )
