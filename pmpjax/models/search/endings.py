"""Why a text ends."""

import enum
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Ending(enum.IntEnum):
    """Why a text goes no further. Arrays hold the numbers; `Ending(int(status)).name` is the name."""

    ENDED = 0
    """Its last token is one that ends a text."""
    OUT_OF_STEPS = 1
    """All steps are taken."""
    NOTHING_ALLOWED = 2
    """The mask allows no token; of beams: it allows fewer texts than there are beams, and this place is empty."""
    NOT_FINITE = 3
    """The model's logits are not finite; what was written before counts."""


def is_end(tokens: Int[Array, "*n"], ends: Sequence[int]) -> Bool[Array, "*n"]:
    """Which tokens end a text."""
    return jnp.isin(tokens, jnp.asarray(ends, tokens.dtype)) if ends else jnp.zeros(tokens.shape, bool)


def not_finite(logits: Float[Array, "*n v"]) -> Bool[Array, "*n"]:
    """Where a row of logits has a NaN or +inf; -inf is a token that the model never writes."""
    return ~(jnp.max(logits, axis=-1) < jnp.inf)
