"""Pytrees with leaves that are differentiated and leaves that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.control import trees


def mixed():
    return {
        "x": jnp.arange(3.0),
        "count": jnp.int32(2),
        "key": jax.random.key(0),
        "flag": jnp.array(True),
        "none": None,
    }


def test_partition_takes_apart_what_combine_puts_together():
    tree = mixed()
    differentiable, static = trees.partition(tree)
    assert [name for name, leaf in differentiable.items() if leaf is not None] == ["x"]
    assert sorted(name for name, leaf in static.items() if leaf is not None) == ["count", "flag", "key"]
    again = trees.combine(differentiable, static)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))


def test_numbers_over_all_leaves(float64):
    tree = {"a": jnp.array([[3.0, -4.0]], jnp.float32), "b": jnp.array(12.0, jnp.float64)}
    assert float(trees.inner(tree, tree)) == 169.0 and trees.inner(tree, tree).dtype == jnp.float64
    assert float(trees.norm(tree)) == 13.0 and float(trees.largest(tree)) == 12.0
    assert float(trees.inner({}, {})) == 0.0 == float(trees.largest({}))


def test_finite_sees_entries_not_their_squares():
    large = {"a": jnp.full(4, 1e30, jnp.float32)}
    assert bool(trees.finite(large)) and not np.isfinite(trees.norm(large))
    assert not bool(trees.finite({**large, "b": jnp.array([0.0, jnp.nan])})) and bool(trees.finite({}))
    assert np.isnan(trees.largest({**large, "b": jnp.array(jnp.nan)}))


def test_rows_are_put_and_taken():
    tree = mixed()
    buffer = trees.put(trees.rows_like(tree, 3), jax.tree.map(lambda leaf: leaf, {**tree, "x": 2 * tree["x"]}), 1)
    np.testing.assert_array_equal(buffer["x"], [[0, 1, 2], [0, 2, 4], [0, 1, 2]])
    np.testing.assert_array_equal(trees.take(buffer, 1)["x"], [0, 2, 4])
    assert trees.take(buffer, 2)["key"] == tree["key"]


def test_normal_numbers_are_the_keys_own():
    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(500, jnp.float16)}
    found = trees.normal_like(tree, jax.random.key(1))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found) == {
        "a": ((2, 3), jnp.float32),
        "b": ((500,), jnp.float16),
    }
    assert 0.8 < float(jnp.std(found["b"].astype(jnp.float32))) < 1.2
    again, other = (trees.normal_like(tree, jax.random.key(n)) for n in (1, 2))
    assert jnp.array_equal(found["a"], again["a"]) and not jnp.array_equal(found["a"], other["a"])


def test_what_is_no_array_is_named():
    with pytest.raises(ValueError, match=r"state\['f'\] is 'sin'"):
        trees.as_arrays({"f": jnp.sin}, "state")


def test_the_first_leaf_that_differs_is_named():
    tree = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    trees.check_same(tree, jax.eval_shape(lambda: tree), "state", "hint")
    with pytest.raises(ValueError, match=r"state\['b'\] .*\(3,\).*\(4,\).*a hint"):
        trees.check_same(tree, {**tree, "b": jnp.zeros(4)}, "state", "a hint")
    with pytest.raises(ValueError, match=r"state\['a'\] .*float32.*int32"):
        trees.check_same(tree, {**tree, "a": jnp.zeros(2, jnp.int32)}, "state", "")
    with pytest.raises(ValueError, match=r"state has structure"):
        trees.check_same(tree, {"a": tree["a"]}, "state", "")
