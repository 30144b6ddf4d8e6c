"""Guarded functions: the same values, the same derivatives at ordinary points, 0 * infinity = 0 at others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.training.guarded import guarded, operations
from tests.oracles import relative_error

ORDINARY = {
    "roots and quotients": lambda x: jnp.sqrt(x) / (x + 1) + jax.lax.rsqrt(x) + jnp.cbrt(x),
    "powers and logarithms": lambda x: x**3 + x**-2 + x**0.3 + jnp.log(x) + jnp.log1p(x),
    "integer exponents of an array": lambda x: jnp.power(2.0 + x, jnp.arange(x.size)),
    "a norm and a product": lambda x: x / jnp.linalg.norm(x) @ jnp.ones((x.size, 2)),
    "a branch": lambda x: jax.lax.cond(x[0] > 0, lambda y: jnp.sqrt(y), lambda y: y, x),
    "a scan": lambda x: jax.lax.scan(lambda c, y: (c * y + jnp.sqrt(y), c), x[0], x)[1],
    "a function with its own derivative": lambda x: jax.nn.relu(x - 0.5) * jax.nn.softmax(x),
    "a compiled call": jax.jit(lambda x: jnp.where(x > 0.7, jnp.sqrt(x), -x)),
    "rows under vmap": jax.vmap(lambda x: x * jnp.sqrt(jnp.sum(x**2)), in_axes=0),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_the_same_values_and_derivatives_at_ordinary_points(float64, name):
    function = ORDINARY[name]
    x = jnp.linspace(0.4, 1.3, 6)
    x = x.reshape(3, 2) if "rows" in name else x
    copy = guarded(function, x)
    assert relative_error(copy(x), function(x)) < 1e-15
    covector = jnp.cos(jnp.arange(function(x).size, dtype=x.dtype)).reshape(function(x).shape)
    found, expected = (jax.vjp(f, x)[1](covector)[0] for f in (copy, function))
    assert relative_error(found, expected) < 1e-14
    # In second order too, as a sweep that is differentiated needs it.
    found, expected = (
        jax.grad(lambda x, f=f: jnp.sum(jax.grad(lambda y: jnp.vdot(covector, f(y)))(x) ** 2))(x)
        for f in (copy, function)
    )
    assert relative_error(found, expected) < 1e-12 or np.linalg.norm(expected) < 1e-12


@pytest.mark.parametrize("function", [jnp.linalg.norm, lambda x: jnp.sqrt(jnp.max(x))])
def test_what_does_not_act_has_no_say(float64, function):
    """A clip that does not act, on a gradient of zero."""

    def clip(g):
        size = function(g)
        return jnp.where(size < 1.0, g, g / size)

    x = jnp.zeros(3)
    assert not np.any(np.isfinite(jax.vjp(clip, x)[1](jnp.ones(3))[0]))
    np.testing.assert_array_equal(jax.vjp(guarded(clip, x), x)[1](jnp.ones(3))[0], jnp.ones(3))


def test_an_infinite_slope_that_acts_stays_infinite(float64):
    assert jax.grad(guarded(jnp.sqrt, 0.0))(0.0) == jnp.inf


def test_operations_are_found_inside_calls_branches_and_loops():
    def nested(x):
        x = jax.jit(jnp.sqrt)(x)
        x = jax.lax.cond(x > 0, jnp.log, jnp.tanh, x)
        return jax.lax.fori_loop(0, 3, lambda i, y: y**0.5, x)

    names = {equation.primitive.name for equation in operations(jax.make_jaxpr(nested)(1.0).jaxpr)}
    assert {"sqrt", "log", "tanh"} <= names and names & {"pow", "sqrt"}
