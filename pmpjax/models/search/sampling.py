"""One token drawn from logits: temperature, the most probable ones, and log-probabilities on what is left."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int


class Sampling(NamedTuple):
    """How a token is drawn: p(a) is proportional to exp(logit_a / temperature) for a in the support, else 0.

    All fields may be traced: other values need no compilation.

    Fields:
        temperature: 0: the support is the most probable token alone, the first of equals.
        top_k: the support is the k most probable tokens, and those as probable as the k-th; 0: all.
        top_p: of these, the most probable ones whose predecessors together have a probability below top_p: at least
            one. Nucleus sampling (arXiv 1904.09751).
    """

    temperature: float | Array = 1.0
    top_k: int | Array = 0
    top_p: float | Array = 1.0


def check_sampling(sampling: Sampling) -> None:
    """Refuses a setting that means nothing, where its value is known.

    Raises:
        ValueError: temperature or top_k negative, or top_p not in (0, 1]; names it and what was found.
    """
    known = [None if isinstance(value, Tracer) else np.asarray(value) for value in sampling]
    temperature, top_k, top_p = known
    if temperature is not None and not (np.isfinite(temperature) & (temperature >= 0)).all():
        raise ValueError(f"temperature must be 0 or positive, found {temperature}; 0 takes the most probable token")
    if top_k is not None and not (top_k >= 0).all():
        raise ValueError(f"top_k must be 0 or positive, found {top_k}; 0 takes all tokens")
    if top_p is not None and not ((top_p > 0) & (top_p <= 1)).all():
        raise ValueError(f"top_p must be in (0, 1], found {top_p}; 1 takes all tokens")


def restrict(
    logits: Float[Array, "*n v"], sampling: Sampling, allowed: Bool[Array, "*n v"] | None = None
) -> Float[Array, "*n v"]:
    """logits / temperature on the support and -inf elsewhere, not normalised; all -inf where nothing is allowed."""
    if allowed is not None:
        logits = jnp.where(allowed, logits, -jnp.inf)
    temperature, top_k, top_p = sampling
    vocabulary = logits.shape[-1]
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    ordered = jnp.flip(jnp.sort(scaled, axis=-1), axis=-1)
    last = jnp.where(jnp.asarray(top_k) > 0, jnp.minimum(top_k, vocabulary) - 1, vocabulary - 1)
    least = jnp.take(ordered, last, axis=-1)[..., None]
    ordered = jnp.where(ordered < least, -jnp.inf, ordered)
    probability = jnp.exp(_normalised(ordered))
    before = jnp.cumsum(probability, axis=-1) - probability
    # At top_p 1 a sum that rounds to 1 would cut the tail.
    kept = (before < top_p) | (jnp.asarray(top_p) >= 1)
    least = jnp.maximum(least, jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True))
    drawn_from = jnp.where(scaled < least, -jnp.inf, scaled)
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), vocabulary, dtype=bool) & (logits > -jnp.inf)
    return jnp.where(jnp.asarray(temperature) > 0, drawn_from, jnp.where(best, 0.0, -jnp.inf))


def support(
    logits: Float[Array, "*n v"], sampling: Sampling, allowed: Bool[Array, "*n v"] | None = None
) -> Bool[Array, "*n v"]:
    """The tokens that can be drawn.

    A trainer that takes several steps on one set of texts keeps the support of the policy that wrote them: give it as
    `allowed` to `log_probabilities` of the new logits, with the temperature alone.
    """
    return restrict(logits, sampling, allowed) > -jnp.inf


def log_probabilities(
    logits: Float[Array, "*n v"], sampling: Sampling | None = None, allowed: Bool[Array, "*n v"] | None = None
) -> Float[Array, "*n v"]:
    """log p(a) = logit_a / temperature - log sum_{b in S} exp(logit_b / temperature) on the support S, -inf elsewhere.

    exp of it adds up to 1 over S: these are the log-probabilities of what the sampler draws, which an unbiased policy
    gradient needs, and not those of the full softmax. Where nothing is allowed all are -inf.

    >>> import jax.numpy as jnp
    >>> log_p = log_probabilities(jnp.log(jnp.array([0.5, 0.3, 0.2])), Sampling(top_p=0.6))
    >>> [round(p, 3) for p in jnp.exp(log_p).tolist()]
    [0.625, 0.375, 0.0]
    """
    return _normalised(restrict(logits, Sampling() if sampling is None else sampling, allowed))


def _normalised(restricted: Array) -> Array:
    inside = restricted > -jnp.inf
    # Zeros stand in where nothing is allowed: neither the value nor the derivative may be NaN there.
    some = jnp.any(inside, axis=-1, keepdims=True)
    return jnp.where(inside, jax.nn.log_softmax(jnp.where(some, restricted, 0.0), axis=-1), -jnp.inf)


def draw(
    key: Array,
    logits: Float[Array, "*n v"],
    sampling: Sampling | None = None,
    allowed: Bool[Array, "*n v"] | None = None,
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    """(token ~ p, log p(token)), p as in `log_probabilities`; (0, -inf) where nothing is allowed.

    >>> import jax, jax.numpy as jnp
    >>> token, log_p = draw(jax.random.key(0), jnp.array([1.0, 3.0, 2.0]), Sampling(temperature=0.0))
    >>> int(token), float(log_p)
    (1, 0.0)
    """
    restricted = restrict(logits, Sampling() if sampling is None else sampling, allowed)
    token = jax.random.categorical(key, restricted, axis=-1).astype(jnp.int32)
    return token, jnp.take_along_axis(_normalised(restricted), token[..., None], axis=-1)[..., 0]
