"""Pytrees of arrays, some of whose leaves are differentiated: partition, combine, inner products, named leaves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path
from jaxtyping import Array, PyTree


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf has a derivative: inexact dtypes do, integers, booleans and random keys do not."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """(differentiable, static): two trees of one structure, each with None where the leaf belongs to the other.

    A costate has the structure of `differentiable`: step counters and random keys carry no derivative.
    """
    differentiable = jax.tree.map(lambda leaf: leaf if is_differentiable(leaf) else None, tree)
    return differentiable, jax.tree.map(lambda leaf: None if is_differentiable(leaf) else leaf, tree)


def combine(differentiable: PyTree, static: PyTree) -> PyTree:
    """The tree that `partition` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, differentiable, static, is_leaf=lambda leaf: leaf is None)


def widest(values: list[Any]) -> Any:
    """The largest dtype among some values; the default float where there are none."""
    # By hand: strict promotion (`jax_numpy_dtype_promotion`) refuses to choose among floating dtypes.
    return max((value.dtype for value in values), key=lambda dtype: dtype.itemsize, default=jnp.zeros(()).dtype)


def inner(left: PyTree, right: PyTree) -> Array:
    """<left, right> = sum over leaves of sum(left * right), a scalar of the widest dtype among the leaves."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), left, right))
    dtype = widest(products)
    return functools.reduce(jnp.add, [product.astype(dtype) for product in products], jnp.zeros((), dtype))


def norm(tree: PyTree) -> Array:
    """Euclidean norm over all leaves, a scalar."""
    return jnp.sqrt(inner(tree, tree))


def finite(tree: PyTree) -> Array:
    """Whether every entry of every leaf is finite, a boolean scalar."""
    # Leaf by leaf, because the square of a large finite number (the costate of a small second moment) overflows.
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)], jnp.array(True))


def largest(tree: PyTree) -> Array:
    """max |entry| over all leaves, a scalar; NaN where one is, 0 where there is none."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)]
    dtype = widest(sizes)
    return functools.reduce(jnp.maximum, [size.astype(dtype) for size in sizes], jnp.zeros((), dtype))


def add(left: PyTree, right: PyTree) -> PyTree:
    """left + right, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def take(tree: PyTree, index: Any) -> PyTree:
    """Row `index` (a traced integer) of every leaf's leading axis."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def put(tree: PyTree, row: PyTree, index: Any) -> PyTree:
    """`tree` with row `index` of every leaf's leading axis replaced; in place inside a compiled loop."""
    return jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, index, 0), tree, row)


def rows_like(tree: PyTree, count: int) -> PyTree:
    """A buffer of `count` rows for values like `tree`; filled from it, since random keys have no zero."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)


def zeros_of(shapes: PyTree, *leading: int) -> PyTree:
    """Zeros for a tree of shape-dtype structures, with extra leading axes."""
    return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), shapes)


def select(condition: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Leaf by leaf `on_true` where the scalar condition holds."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def normal_like(tree: PyTree, key: Array) -> PyTree:
    """Standard normal numbers like the leaves of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])


def named_leaves(tree: PyTree, root: str) -> list[tuple[str, Any]]:
    """[(name, leaf)] with names such as `controls['weights']`, as error messages show them."""
    return [(root + keystr(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0]]


def as_arrays(tree: PyTree, root: str) -> PyTree:
    """`tree` with every leaf as an array; raises ValueError naming the first leaf that is none, such as a function."""

    def convert(path: Any, leaf: Any) -> Array:
        try:
            return jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            what = getattr(leaf, "__name__", type(leaf).__name__)
            hint = "let the functions close over what is no array"
            raise ValueError(f"{root}{keystr(path)} is {what!r}, expected an array; {hint}") from error

    return tree_map_with_path(convert, tree)


def check_same(found: PyTree, expected: PyTree, root: str, hint: str) -> None:
    """Raise ValueError naming the first leaf whose shape or dtype differs from the expected one."""
    structures = jax.tree.structure(found), jax.tree.structure(expected)
    if structures[0] != structures[1]:
        raise ValueError(f"{root} has structure {structures[0]}, expected {structures[1]}; {hint}")
    for (name, a), b in zip(named_leaves(found, root), jax.tree.leaves(expected), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"{name} has shape {a.shape} and dtype {a.dtype}, expected {b.shape} and {b.dtype}; {hint}"
            )
