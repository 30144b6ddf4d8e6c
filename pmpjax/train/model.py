"""The sizes of a decoder as a user gives them, without its vocabulary, and an analytic count of its FLOPs."""

import dataclasses
from typing import Literal

from pmpjax.models import DecoderConfig, preset


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder but for its vocabulary, which comes from the tokenizer: a preset, and what is changed of it.

    Attributes:
        preset: name in `pmpjax.models.PRESETS`; every field below that is not given is the preset's.
        width: features of the residual stream.
        layers: blocks of attention and feed-forward.
        heads: query heads.
        key_value_heads: heads that keys and values have; divides `heads`.
        hidden: features inside the feed-forward block.
        tied_embeddings: whether the output product uses the embedding's matrix.
        window: keys that a query sees, itself among them.
        momentum: eta of momentum attention, 0 <= eta < 1: each head also adds sum_{i<t} eta^(t-i) v_i. No other program
            opens such a decoder, so that nothing is exported.
        compute: dtype of the products, "parameters" or "bfloat16".
        attention: "blocks" (any order of derivatives), or a fused one by "xla" or "cudnn".
        scan_layers: one traced block scanned over stacked parameters.
        remat: what the backward pass computes again: "none", "full" or "products".
        loss_chunk: tokens, over all devices, whose logits exist at the same time.

    >>> ModelConfig("small", layers=2).decoder(4096).layers
    2
    """

    preset: str = "tiny"
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    hidden: int | None = None
    tied_embeddings: bool | None = None
    window: int | None = None
    momentum: float | None = None
    compute: Literal["parameters", "bfloat16"] | None = None
    attention: Literal["blocks", "xla", "cudnn"] | None = None
    scan_layers: bool | None = None
    remat: Literal["none", "full", "products"] | None = None
    loss_chunk: int | None = None

    def decoder(self, vocabulary: int) -> DecoderConfig:
        """The decoder's config for a tokenizer of `vocabulary` ids; ValueError for an unknown preset or a misfit."""
        changes = {name: value for name, value in dataclasses.asdict(self).items() if name != "preset"}
        return preset(self.preset, vocabulary, **{name: value for name, value in changes.items() if value is not None})


def product_parameters(config: DecoderConfig, output: bool = True) -> int:
    """N: parameters that take part in a product for every token; a look-up in the embedding is none.

    >>> product_parameters(DecoderConfig(vocabulary=10, width=4, layers=1, heads=2, key_value_heads=1, hidden=8))
    184
    """
    attention = config.width * config.size * 2 * (config.heads + config.key_value_heads)
    block = attention + (3 if config.feed_forward == "swiglu" else 2) * config.width * config.hidden
    return config.layers * block + (config.vocabulary * config.width if output else 0)


def forward_flops(config: DecoderConfig, tokens: int | float, output: bool = True) -> float:
    """2 N D: a multiplication and an addition for each parameter and token; attention's own products are left out.

    A gradient is 6 N D (forward, and two products in the backward pass for each one), a jvp of the loss 4 N D, a jvp of
    the gradient 18 N D, the gradient among them.
    """
    return 2.0 * product_parameters(config, output) * tokens
