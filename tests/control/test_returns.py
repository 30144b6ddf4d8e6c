"""Generalised advantage estimation against a loop, and its two ends in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.control.returns import discounted_sums, generalised_advantages


def by_loop(rewards, values, lengths, discount, trace):
    advantages = np.zeros_like(rewards)
    for row, length in enumerate(lengths):
        after = value_after = 0.0
        for t in reversed(range(length)):
            delta = rewards[t, row] + discount * value_after - values[t, row]
            after = delta + discount * trace * after
            advantages[t, row], value_after = after, values[t, row]
    return advantages


@pytest.mark.parametrize(("discount", "trace"), [(1.0, 0.95), (0.9, 0.8), (0.99, 1.0), (0.9, 0.0)])
def test_advantages_are_those_of_a_loop(float64, discount, trace):
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, 12, 4))
    lengths = np.array([12, 7, 1, 0])
    behind = np.arange(12)[:, None] >= lengths
    expected = by_loop(rewards, values, lengths, discount, trace)
    with_nan = (jnp.asarray(np.where(behind, np.nan, part)) for part in (rewards, values))
    run = jax.jit(
        lambda r, v: generalised_advantages(r, v, lengths=jnp.asarray(lengths), discount=discount, trace=trace)
    )
    found = run(*with_nan)
    np.testing.assert_allclose(found.advantages, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.returns, expected + np.where(behind, 0, values), rtol=0, atol=1e-12)
    if trace == 1:
        to_come = discounted_sums(jnp.where(behind, 0, rewards), jnp.full((12, 4), discount))
        np.testing.assert_allclose(found.returns, to_come, atol=1e-12)


def test_the_scan_is_the_costate_of_a_linear_plant(float64):
    # x_{t+1} = c_t x_t and l_t = k_t x_t: lambda_t = k_t + c_t lambda_{t+1}.
    terms, factors = np.random.default_rng(1).normal(size=(2, 6))

    def objective(x, t):
        total = 0.0
        for k, c in zip(terms[t:], factors[t:], strict=True):
            total, x = total + k * x, c * x
        return total

    costates = [jax.grad(objective)(1.0, t) for t in range(6)]
    np.testing.assert_allclose(discounted_sums(jnp.asarray(terms), jnp.asarray(factors)), costates, atol=1e-12)


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], found 1.5 and 0.95"):
        generalised_advantages(jnp.ones(3), jnp.ones(3), discount=1.5)
