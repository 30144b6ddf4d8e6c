"""What the stages share: the model's sizes, keys from the seed, and an analytic count of FLOPs."""

import dataclasses
import zlib

import jax
import numpy as np
from jaxtyping import Array

from pmpjax.models import DecoderConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The decoder of every stage: proxy, trunk of the scorer, and the models trained on the selections.

    Attributes:
        width: features of the residual stream.
        layers: blocks of attention and feed-forward.
        heads: query heads.
        key_value_heads: heads that keys and values have; divides `heads`.
        hidden: features inside the feed-forward block.
        tied_embeddings: whether the output product uses the embedding's matrix.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    hidden: int = 336
    tied_embeddings: bool = True

    def decoder(self, vocabulary: int) -> DecoderConfig:
        """The decoder's config for a tokenizer of `vocabulary` ids."""
        return DecoderConfig(vocabulary=vocabulary, **dataclasses.asdict(self))


def stage_key(seed: int, *names: str) -> Array:
    """A random key for a purpose: the same seed and names give the same one, other names an unrelated one.

    >>> bool((jax.random.key_data(stage_key(0, "init")) != jax.random.key_data(stage_key(0, "order"))).any())
    True
    """
    return jax.random.fold_in(jax.random.key(seed), _code(*names))


def stage_generator(seed: int, *names: str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.Generator(np.random.PCG64([seed, _code(*names)]))


def stage_seed(seed: int, *names: str) -> int:
    """The same as a whole number, for `pmpjax.data.batch_schedule`."""
    return int(stage_generator(seed, *names).integers(2**31))


def _code(*names: str) -> int:
    return zlib.crc32("/".join(names).encode())


def product_parameters(config: DecoderConfig, output: bool = True) -> int:
    """N: parameters that take part in a product for every token; a look-up in the embedding is none.

    >>> product_parameters(DecoderConfig(vocabulary=10, width=4, layers=1, heads=2, key_value_heads=1, hidden=8))
    184
    """
    size = config.width // config.heads
    attention = config.width * size * 2 * (config.heads + config.key_value_heads)
    block = attention + 3 * config.width * config.hidden
    return config.layers * block + (config.vocabulary * config.width if output else 0)


def forward_flops(config: DecoderConfig, tokens: int | float, output: bool = True) -> float:
    """2 N D: a multiplication and an addition for each parameter and token; attention's own products are left out.

    A gradient is 6 N D (forward, and two products in the backward pass for each one), a jvp of the loss 4 N D, a jvp of
    the gradient 18 N D, the gradient among them.
    """
    return 2.0 * product_parameters(config, output) * tokens
