"""L-BFGS under jit: the minimum that scipy finds, and no step that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from pmpjax.prototypes.quasi_newton import minimised


def bowl(a, b, xp):
    return xp.sum(xp.exp(a) - 2.0 * a) + xp.sum(xp.cosh(b - a[:2]) + 0.1 * b**2)


def test_the_minimum_is_scipys():
    start = {"a": jnp.zeros(3), "b": jnp.ones(2)}
    found = jax.jit(lambda start: minimised(lambda x: bowl(x["a"], x["b"], jnp), start, 40))(start)
    oracle = minimize(lambda x: bowl(x[:3], x[3:], np), np.r_[np.zeros(3), np.ones(2)])
    np.testing.assert_allclose(np.r_[found["a"], found["b"]], oracle.x, atol=1e-3)


def test_no_step_changes_nothing():
    assert float(minimised(lambda x: x**2, jnp.array(3.0), 0)) == 3.0
