"""What a decoder computes on the way to its logits: every block's output and attention weights."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pmpjax.models.decoder import RECORDED, Decoder
from pmpjax.models.layers import apply


class Recording(NamedTuple):
    """What `recorded` returns.

    Fields:
        logits: [N, L, V].
        blocks: [layers, N, L, width] the residual stream after each block.
        attention: [layers, N, H, L, L] the weight of each key for each query.
    """

    logits: Array
    blocks: Array
    attention: Array


def recorded(decoder: Decoder, params: Any, inputs: Array, **options: Any) -> Recording:
    """The decoder's logits with every block's output and attention weights; `options` are those of the decoder."""
    logits, variables = apply(decoder, params, inputs, mutable=[RECORDED], **options)
    layers = variables[RECORDED]["trunk"]
    if decoder.config.scan_layers:
        found = layers["layers"]
        return Recording(logits, found["block"][0], found["attention"][0])
    parts = [layers[f"layers_{index}"] for index in range(decoder.config.layers)]
    return Recording(logits, *(jnp.stack([part[name][0] for part in parts]) for name in ("block", "attention")))
