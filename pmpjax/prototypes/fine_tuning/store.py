"""Prototypes in buffers of one size, and what they say of a state: pure functions, static shapes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30
"""Log-weight of a slot without a prototype: finite, so that its gradient is 0 and not NaN."""


class Head(NamedTuple):
    """A linear head that all prototypes share: q_k = softmax(p_k W + b).

    Fields:
        kernel: W.
        bias: b.
    """

    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]


class Prototypes(NamedTuple):
    """K slots, of which some hold a prototype: growing and pruning change masks, never shapes.

    Fields:
        points: p_k, in the space of the states.
        classes: c_k, from 0 on.
        active: slots that hold a prototype.
        log_weight: log pi_k, of prior weights that need not add up to 1.
        log_variance: log sigma, of each coordinate; one for all.
    """

    points: Float[Array, "k d"]
    classes: Int[Array, " k"]
    active: Bool[Array, " k"]
    log_weight: Float[Array, " k"]
    log_variance: Float[Array, ""]


def squared_distances(store: Prototypes, states: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """|h_n - p_k|^2, never below 0."""
    own = jnp.sum(states**2, axis=1)[:, None] + jnp.sum(store.points**2, axis=1)[None, :]
    product = jnp.matmul(states, store.points.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(own - 2 * product, 0)


def logits(store: Prototypes, states: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """log pi_k - |h_n - p_k|^2 / (2 sigma), and `HIDDEN` where no prototype is.

    The log-density of N(p_k, sigma I) with its weight, less a constant that all prototypes share.
    """
    found = store.log_weight[None, :] - squared_distances(store, states) / (2 * jnp.exp(store.log_variance))
    return jnp.where(store.active[None, :], found, HIDDEN)


@functools.partial(jax.jit, static_argnames="classes")
def class_log_probabilities(
    store: Prototypes, states: Float[Array, "n d"], classes: int, head: Head | None = None
) -> Float[Array, "n c"]:
    """log p(y | h) = log sum_k w_k q_k(y), w = softmax_k of `logits`: each prototype's prediction, by its distance.

    q_k is 1 at the prototype's own class, or softmax(p_k W + b) where there is a head. In the style of prototypical
    fine-tuning (arXiv 2211.13638), whose equations were not read. A class without a prototype gets about `HIDDEN`.

    >>> store = Prototypes(jnp.eye(2), jnp.arange(2), jnp.ones(2, bool), jnp.zeros(2), jnp.log(jnp.float32(0.5)))
    >>> found = class_log_probabilities(store, jnp.array([[1.0, 0.0], [0.5, 0.5]]), 2)
    >>> [[round(p, 3) for p in row] for row in jnp.exp(found).tolist()]
    [[0.881, 0.119], [0.5, 0.5]]
    """
    found = logits(store, states)
    if head is None:
        # By class, so that [n, k, c] is never formed: three times as fast for 128 prototypes of 16 classes.
        place = jnp.where(store.active, store.classes, classes)
        highest = jax.ops.segment_max(jax.lax.stop_gradient(found).T, place, classes + 1)
        highest = jnp.maximum(highest, HIDDEN)
        sums = jax.ops.segment_sum(jnp.exp(found.T - highest[place]), place, classes + 1)[:classes]
        some = sums > 0
        found = jnp.where(some, jnp.log(jnp.where(some, sums, 1.0)) + highest[:classes], HIDDEN).T
    else:
        values = jax.nn.log_softmax(store.points @ head.kernel + head.bias[None, :], axis=1)
        found = jax.nn.logsumexp(found[:, :, None] + values[None, :, :], axis=1)
    return jax.nn.log_softmax(found, axis=1)


def own_responsibilities(
    store: Prototypes, states: Float[Array, "n d"], labels: Int[Array, " n"]
) -> Float[Array, "n k"]:
    """r_nk = softmax_k of `logits` among the prototypes of the example's own class; 0 where the class has none."""
    own = (store.classes[None, :] == labels[:, None]) & store.active[None, :]
    return jnp.where(own, jax.nn.softmax(jnp.where(own, logits(store, states), HIDDEN), axis=1), 0.0)


def diversity(store: Prototypes, margin: Float[Array, ""]) -> Float[Array, ""]:
    """mean over pairs i < j of active prototypes of max(0, m - |p_i - p_j|)^2.

    Two prototypes at one place have no direction to part in: their gradient is 0.
    """
    squared = squared_distances(store, store.points)
    pairs = (store.active[:, None] & store.active[None, :]) & ~jnp.eye(len(store.active), dtype=bool)
    apart = pairs & (squared > 1e-12)  # a root has no derivative at 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return jnp.sum(jnp.where(pairs, jax.nn.relu(margin - distance) ** 2, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)


def margin_of(store: Prototypes, share: float) -> Float[Array, ""]:
    """m = c_0 times the median over active prototypes of the distance to the nearest other one; 0 for fewer than two.

    It follows the prototypes as they move; no gradient passes through it.
    """
    store = jax.lax.stop_gradient(store)
    other = store.active[None, :] & ~jnp.eye(len(store.active), dtype=bool)
    nearest = jnp.sqrt(jnp.min(jnp.where(other, squared_distances(store, store.points), jnp.inf), axis=1))
    median = jnp.nanmedian(jnp.where(store.active & jnp.isfinite(nearest), nearest, jnp.nan))
    return share * jnp.nan_to_num(median)
