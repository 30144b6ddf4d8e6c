"""The sizes of a decoder as a user gives them, without its vocabulary, and an analytic count of its FLOPs."""

import dataclasses

from pmpjax.models import DecoderConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder but for its vocabulary, which the tokenizer says.

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
