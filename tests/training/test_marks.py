"""Which coordinates have an infinite slope that acts, by rule of operation; against what can be read off a formula."""

import jax
import jax.numpy as jnp
import pytest

from pmpjax.training.marks import singular_coordinates

ZERO, ONE = 0.0, 1.0
CASES = {
    "its own root": (lambda x: x / (jnp.sqrt(x**2) + 1e-8), [True, False, True]),
    "a root moved off zero": (lambda x: x / jnp.sqrt(x**2 + 1e-8), [False, False, False]),
    "a norm of all": (lambda x: x / jnp.sqrt(jnp.sum((0.0 * x) ** 2)), [True, True, True]),
    "a branch that is not taken": (lambda x: jnp.where(x > 2, jnp.sqrt(x), x), [False, False, False]),
    "a branch that is taken": (lambda x: jnp.where(x < 2, jnp.sqrt(x), x), [True, False, True]),
    "the smaller of two": (lambda x: x / jnp.maximum(1.0, jnp.sqrt(x)), [False, False, False]),
    "a root that is clamped away": (lambda x: x + jnp.clip(jnp.sqrt(x), 0.5, 2.0), [False, False, False]),
    "only the sign of a root": (lambda x: x + jnp.sign(jnp.sqrt(x)), [False, False, False]),
    "reshaped, joined, cut": (
        lambda x: jnp.sqrt(jnp.concatenate([x, x]).reshape(2, 3).T[:, :1]).squeeze(1),
        [True, False, True],
    ),
    "within a call": (jax.jit(lambda x: jnp.sqrt(x)), [True, False, True]),
    "within a branch": (lambda x: jax.lax.cond(x[1] > 0, jnp.sqrt, lambda y: y, x), [True, False, True]),
    "within the other branch": (lambda x: jax.lax.cond(x[1] < 0, jnp.sqrt, lambda y: y, x), [False, False, False]),
    "before a product of matrices": (lambda x: jnp.sqrt(x) @ jnp.ones((3, 2)), [True, False, True]),
    "a step size that roots share": (lambda x: jnp.sqrt(x[1:] * x[0]), [False, True, True]),
}


@pytest.mark.parametrize("name", CASES)
def test_coordinates_answer_for_what_reads_them(float64, name):
    function, expected = CASES[name]
    assert singular_coordinates(function, jnp.array([ZERO, ONE, ZERO]))[0].tolist() == expected


def test_every_argument_has_its_marks(float64):
    """Adam's second moment answers for the root as the gradient does; another leaf does not."""

    def update(gradient, state):
        moment = 0.9 * state["nu"] + 0.1 * gradient["a"] ** 2
        return {"a": gradient["a"] / (jnp.sqrt(moment) + 1e-8), "b": gradient["b"]}, {"nu": moment}

    zeros = jnp.zeros(2)
    gradient, state = singular_coordinates(update, {"a": zeros, "b": zeros}, {"nu": zeros.at[1].set(1.0)})
    assert gradient["a"].tolist() == [True, False] and state["nu"].tolist() == [True, False]
    assert gradient["b"].tolist() == [False, False]
