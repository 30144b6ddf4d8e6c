"""The sizes and options of a decoder, and the named ones of the papers."""

import dataclasses
import math
from typing import Literal

Positions = Literal["rotary", "learned", "sinusoidal", "tensor2tensor", "xpos", "alibi", "none"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The sizes and options of a decoder; the defaults are the Mistral and Llama architecture.

    Attributes:
        vocabulary: number of token ids.
        width: features of the residual stream.
        layers: blocks of attention and feed-forward.
        heads: query heads.
        key_value_heads: heads that keys and values have; divides `heads`.
        hidden: features inside the feed-forward block.
        head_size: features of a head; `width / heads` if None.
        norm: "rms" (a scale) or "layer" (mean removed, scale and bias); before each sub-layer and at the end.
        sub_norm: a second norm inside each sub-layer, before its last product (SubLN, arXiv 2210.06423).
        feed_forward: "swiglu" (gated), "gelu", or "gelu_tanh" (GPT-2's approximation of it).
        biases: whether products inside the blocks have a bias.
        positions: "rotary", "learned" (one vector a position up to `max_length`), "sinusoidal", "tensor2tensor"
            (sinusoidal with its library's frequencies, as in fairseq and Kosmos-2), "xpos" (rotary with decay), "alibi"
            (a linear penalty on the distance), "none".
        first_position: number of a row's first token in sinusoidal positions (2 in Kosmos-2: its padding id + 1).
        embedding_scale: multiplies embeddings before positions are added (sqrt(width) in Kosmos-2).
        max_length: rows of the learned positions' matrix; ignored where positions are not learned.
        rope_base: base of the rotary frequencies.
        window: keys that a query sees, itself among them (Mistral's sliding window); None: all before it.
        momentum: eta of momentum attention (arXiv 2212.10559), 0 <= eta < 1: each head also adds
            sum_{i<t} eta^(t-i) v_i; 0: plain attention. Not with a window, and not with a cache.
        norm_epsilon: added to the mean square in each norm.
        tied_embeddings: whether the output product uses the embedding's matrix.
        compute: "parameters" (products in the parameters' dtype) or "bfloat16" (norms, softmax and loss stay wider).
        attention: "blocks" (own products, any order of derivatives: what a costate sweep needs), or
            `jax.nn.dot_product_attention` by "xla" or "cudnn" (first derivatives on a GPU).
        attention_block: least number of queries in a block of "blocks"; a block sees no key behind its last query.
        scan_layers: one traced block scanned over stacked parameters: compile time constant in `layers`. Unrolled
            layers step faster (311 ms against 406 at 2 layers, width 128, 2 CPU cores).
        remat: what the backward pass computes again, block by block: "none", "full" (keeps the residual stream alone)
            or "products" (keeps the results of matrix products).
        loss_chunk: tokens whose logits exist at the same time in the loss, computed again backward (0: those of all
            tokens, kept; None: 0 where these fit in 128 MB, else 512).
    """

    vocabulary: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    hidden: int = 336
    head_size: int | None = None
    norm: Literal["rms", "layer"] = "rms"
    sub_norm: bool = False
    feed_forward: Literal["swiglu", "gelu", "gelu_tanh"] = "swiglu"
    biases: bool = False
    positions: Positions = "rotary"
    first_position: int = 0
    embedding_scale: float = 1.0
    max_length: int = 0
    rope_base: float = 10_000.0
    window: int | None = None
    momentum: float = 0.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    compute: Literal["parameters", "bfloat16"] = "parameters"
    attention: Literal["blocks", "xla", "cudnn"] = "blocks"
    attention_block: int = 64
    scan_layers: bool = False
    remat: Literal["none", "full", "products"] = "none"
    loss_chunk: int | None = None

    def __post_init__(self):
        if self.head_size is None and self.width % self.heads:
            raise ValueError(
                f"width / heads must be a whole number: width {self.width}, heads {self.heads}; "
                "change either or give head_size"
            )
        if self.positions in ("rotary", "xpos") and self.size % 2:
            raise ValueError(
                f"{self.positions} positions turn pairs of features, and a head has {self.size} (width {self.width}, "
                f"heads {self.heads}); make it even"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"key_value_heads must divide heads: {self.key_value_heads} does not divide {self.heads}; change either"
            )
        if self.positions == "learned" and self.max_length < 1:
            raise ValueError("learned positions need max_length, the longest row that the model will ever see")
        waves = self.positions in ("sinusoidal", "tensor2tensor")
        if waves and (self.width % 2 or self.width < 4):
            raise ValueError(f"{self.positions} positions are sines and cosines, width {self.width} is odd or below 4")
        if self.first_position and not (waves and self.first_position > 0):
            raise ValueError(
                f"first_position is {self.first_position} and positions are {self.positions}; only sinusoidal ones are "
                "counted from another number than 0, a positive one"
            )
        if not 0 < self.embedding_scale < math.inf:
            raise ValueError(f"embedding_scale is {self.embedding_scale}, expected a positive number")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; a query sees itself at least: 1 or more, or None")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, expected 0 <= momentum < 1; 0 is plain attention")
        if self.momentum and self.window is not None:
            raise ValueError(
                f"momentum {self.momentum} adds every earlier value, and window {self.window} hides those behind it; "
                "give one of the two"
            )

    @property
    def size(self) -> int:
        """Features of a head."""
        return self.width // self.heads if self.head_size is None else self.head_size


_PAPER = {"norm_epsilon": 1e-5, "tied_embeddings": False, "scan_layers": True, "remat": "full"}

PRESETS: dict[str, dict] = {
    # For two CPU cores.
    "tiny": {"width": 128, "layers": 2, "heads": 4, "key_value_heads": 2, "hidden": 336},
    "small": {"width": 256, "layers": 6, "heads": 8, "key_value_heads": 4, "hidden": 688},
    # PDS, arXiv 2410.07064, the table of model configurations: Mistral's architecture, no grouped heads.
    "160m": {"width": 768, "layers": 12, "heads": 12, "key_value_heads": 12, "hidden": 3_072, **_PAPER},
    "470m": {"width": 1_024, "layers": 24, "heads": 16, "key_value_heads": 16, "hidden": 4_096, **_PAPER},
    "1b": {"width": 1_536, "layers": 24, "heads": 16, "key_value_heads": 16, "hidden": 6_144, **_PAPER},
    "1.7b": {"width": 2_048, "layers": 24, "heads": 16, "key_value_heads": 16, "hidden": 8_192, **_PAPER},
    # PDS's data scorer: a dense decoder of GPT-2's shape under the linear head.
    "scorer-125m": {
        "width": 768,
        "layers": 12,
        "heads": 12,
        "key_value_heads": 12,
        "hidden": 3_072,
        "norm": "layer",
        "feed_forward": "gelu",
        "biases": True,
        "positions": "learned",
        "max_length": 1_024,
        "norm_epsilon": 1e-5,
        "scan_layers": True,
        "remat": "full",
    },
    # Learning Law, arXiv 2402.17759: 2 layers, 8 heads, rows of 64 tokens, vocabulary 5,000.
    "law": {"width": 128, "layers": 2, "heads": 8, "key_value_heads": 8, "hidden": 336},
}
"""Fields of `DecoderConfig` by name, all but the vocabulary, which the tokenizer decides."""


def preset(name: str, vocabulary: int, **changes: object) -> DecoderConfig:
    """The named configuration for a tokenizer of `vocabulary` ids, with single fields changed.

    Raises ValueError for an unknown name; it lists the known ones.

    >>> preset("160m", 32_000).width, preset("tiny", 4_096, layers=3).layers
    (768, 3)
    """
    if name not in PRESETS:
        raise ValueError(f"no model preset {name!r}; known ones: {', '.join(PRESETS)}")
    return DecoderConfig(vocabulary=vocabulary, **{**PRESETS[name], **changes})
