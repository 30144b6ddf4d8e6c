"""What outputs depend on, and what has to be stored of them for each round of a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.control.tracing import Residuals, called, varying_outputs

FUNCTIONS = {
    "each of its own": (lambda a, b: (a + 1, b * 2, 3.0), [True, False, False]),
    "of both": (lambda a, b: (a * b, b), [True, False]),
    "through a call": (jax.jit(lambda a, b: (b + 1, a - b)), [False, True]),
    "through a nested call": (lambda a, b: jax.jit(lambda x: (jax.jit(jnp.sin)(x), x))(b), [False, False]),
    "through a checkpoint": (jax.checkpoint(lambda a, b: (jnp.sin(b), a)), [False, True]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_vary_with_the_inputs_that_they_read(name):
    function, expected = FUNCTIONS[name]
    jaxpr = jax.make_jaxpr(function)(1.0, 2.0).jaxpr
    assert varying_outputs(jaxpr, [True, False]) == expected


def test_a_loop_may_vary_wherever_its_inputs_do():
    """What cannot be told apart counts as varying."""
    jaxpr = jax.make_jaxpr(lambda a, b: jax.lax.fori_loop(0, 3, lambda i, c: (c[0] + 1, c[1]), (a, b)))(1.0, 2.0).jaxpr
    assert varying_outputs(jaxpr, [True, False])[0] and varying_outputs(jaxpr, [False, False]) == [False, False]


def test_only_calls_are_called():
    names = {}
    for function in (jax.jit(jnp.sin), jax.checkpoint(jnp.sin), jnp.sin):
        (equation,) = jax.make_jaxpr(function)(1.0).jaxpr.eqns
        names[equation.primitive.name] = called(equation) is not None
    assert names.pop("sin") is False and len(names) == 2 and all(names.values())


def test_residuals_store_what_varies_and_is_no_argument():
    def function(x, u, w):
        return {"argument": w, "constant": jnp.sin(w), "own": x * u}

    first = (jnp.float32(2.0), jnp.float32(3.0), jnp.arange(4.0))
    residuals = Residuals(function, first, (True, True, False))
    later = (jnp.float32(5.0), jnp.float32(7.0), first[2])
    kept = residuals.pack(function(*later))
    assert [leaf.shape for leaf in kept] == [()]  # x * u alone
    found = residuals.unpack(kept, later)
    jax.tree.map(np.testing.assert_array_equal, found, function(*later))
