"""Advantages and returns of a rollout: the costate's reverse scan with a learned value in its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Advantages(NamedTuple):
    """advantages: [T, ...] A_t. returns: [T, ...] A_t + V_t, what the value is fitted to."""

    advantages: Float[Array, "t *n"]
    returns: Float[Array, "t *n"]


def discounted_sums(terms: Float[Array, "t *n"], factors: Float[Array, "t *n"]) -> Float[Array, "t *n"]:
    """s_t = terms_t + factors_t s_{t+1}, s_T = 0: a scan in reverse over the leading axis.

    >>> import jax.numpy as jnp
    >>> discounted_sums(jnp.ones(3), jnp.full(3, 0.5)).tolist()
    [1.75, 1.5, 1.0]
    """

    def step(after: Array, here: tuple[Array, Array]) -> tuple[Array, Array]:
        return (now := here[0] + here[1] * after), now

    return jax.lax.scan(step, jnp.zeros_like(terms[0]), (terms, factors), reverse=True)[1]


def generalised_advantages(
    rewards: Float[Array, "t *n"],
    values: Float[Array, "t *n"],
    *,
    lengths: Array | None = None,
    discount: float = 1.0,
    trace: float = 0.95,
) -> Advantages:
    """A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t: generalised advantage estimation
    (arXiv 1506.02438).

    A row ends after `lengths` steps: V and A behind are 0, and nothing of what stands there is read, NaN neither.
    With trace 1 the returns are the discounted rewards to come; with trace 0 A_t is delta_t.

    Args:
        rewards: [T, ...] r_t, high is good; time leads, as in all of this room.
        values: [T, ...] V_t, before the step.
        lengths: [...] integers, steps of each row; None: all T.
        discount: gamma. trace: lambda.

    Raises:
        ValueError: discount or trace is not in [0, 1], or the shapes differ.

    >>> import jax.numpy as jnp
    >>> found = generalised_advantages(jnp.array([0.0, 0.0, 1.0]), jnp.array([0.5, 0.5, 0.5]), trace=1.0)
    >>> found.advantages.tolist(), found.returns.tolist()
    ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    """
    if not (0 <= discount <= 1 and 0 <= trace <= 1):
        raise ValueError(f"discount and trace must be in [0, 1], found {discount} and {trace}")
    if rewards.shape != values.shape:
        raise ValueError(f"rewards are {rewards.shape} and values {values.shape}; both must be [T, ...] alike")
    if lengths is not None:
        inside = jnp.arange(len(rewards)).reshape(-1, *(1,) * (rewards.ndim - 1)) < lengths[None]
        rewards, values = jnp.where(inside, rewards, 0.0), jnp.where(inside, values, 0.0)
    deltas = rewards + discount * jnp.concatenate([values[1:], jnp.zeros_like(values[:1])]) - values
    advantages = discounted_sums(deltas, jnp.full_like(deltas, discount * trace))
    return Advantages(advantages, advantages + values)
