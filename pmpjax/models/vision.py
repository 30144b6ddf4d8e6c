"""The vision tower of CLIP: images in, one vector for each patch and one for the whole out."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pmpjax.models.attention import attend_all
from pmpjax.models.layers import Dense, Norm, product

_LEAST_LENGTH = 1e-12  # as torch.nn.functional.normalize has it


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision tower; the defaults are CLIP's ViT-L/14, which Kosmos-2 uses.

    Attributes:
        size: pixels of an image's side; a multiple of `patch`.
        patch: pixels of a patch's side.
        channels: numbers of a pixel.
        width: features of a token; a multiple of `heads`.
        hidden: features inside the feed-forward part.
        activation: "quick_gelu", x sigmoid(1.702 x), or the exact "gelu".
    """

    size: int = 224
    patch: int = 14
    channels: int = 3
    width: int = 1_024
    layers: int = 24
    heads: int = 16
    hidden: int = 4_096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of the {self.heads} heads")
        if self.size % self.patch:
            raise ValueError(f"size is {self.size} pixels, expected a multiple of the patch, {self.patch}")

    @property
    def tokens(self) -> int:
        """Vectors of an image: its patches, and one for the whole."""
        return (self.size // self.patch) ** 2 + 1


class VisionBlock(nn.Module):
    """h + attention(norm(h)), every token seen from each, then h + W_2 a(W_1 norm(h) + b_1) + b_2."""

    config: VisionConfig

    @nn.compact
    def __call__(self, h: Float[Array, "n l d"]) -> Float[Array, "n l d"]:
        config, (rows, length, width) = self.config, h.shape
        z = Norm("layer", config.norm_epsilon, name="attention_norm")(h)
        query, key, value = (
            Dense(width, True, name=name)(z).reshape(rows, length, config.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = attend_all(query, key, value).reshape(rows, length, width)
        h = h + Dense(width, True, name="output")(mixed)
        z = Norm("layer", config.norm_epsilon, name="feed_forward_norm")(h)
        inner = Dense(config.hidden, True, name="up")(z)
        quick = config.activation == "quick_gelu"
        inner = inner * jax.nn.sigmoid(1.702 * inner) if quick else jax.nn.gelu(inner, approximate=False)
        return h + Dense(width, True, name="down")(inner)


class Vision(nn.Module):
    """Tokens of images by the transformer of CLIP (arXiv 2103.00020).

    h = norm([c; W patch_1; ...; W patch_P] + positions), then the blocks. Patches are read row by row, W has no bias,
    c stands for the whole image.

    >>> vision = Vision(VisionConfig(size=8, patch=4, width=8, layers=1, heads=2, hidden=16))
    >>> images = jnp.zeros((2, 8, 8, 3))
    >>> params = vision.init(jax.random.key(0), images)["params"]
    >>> vision.apply({"params": params}, images).shape
    (2, 5, 8)
    """

    config: VisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "n y x c"], normalised: bool = False) -> Float[Array, "n p d"]:
        """States [N, 1 + patches, width] of the last block.

        Args:
            images: [N, size, size, channels], normalised as in training (for CLIP less its mean colour, over its
                standard deviation).
            normalised: v / |v| of v = norm(state) in place of the states: what Kosmos-2's connector reads.

        Raises ValueError for images of another shape.
        """
        config, side = self.config, self.config.size // self.config.patch
        expected = (config.size, config.size, config.channels)
        if images.shape[1:] != expected:
            raise ValueError(
                f"images are {list(images.shape[1:])}, expected {list(expected)}, channels last; resize them"
            )
        # From left to right, then from top to bottom, then colours: the transpose of the order in PyTorch's files.
        kernel_shape = (config.patch, config.patch, config.channels, config.width)
        kernel = self.param("patch", nn.initializers.lecun_normal(in_axis=(0, 1, 2)), kernel_shape)
        normal = nn.initializers.normal(config.width**-0.5)
        class_token = self.param("class_token", normal, (config.width,))
        positions = self.param("positions", normal, (config.tokens, config.width))

        n = len(images)
        patches = images.reshape(n, side, config.patch, side, config.patch, config.channels)
        patches = patches.transpose(0, 1, 3, 4, 2, 5).reshape(n, side * side, -1)
        h = product(patches.astype(kernel.dtype), kernel.reshape(-1, config.width))
        h = jnp.concatenate([jnp.broadcast_to(class_token, (n, 1, config.width)), h], axis=1) + positions[None]
        h = Norm("layer", config.norm_epsilon, name="norm_before")(h)
        for index in range(config.layers):
            h = VisionBlock(config, name=f"layers_{index}")(h)
        states = Norm("layer", config.norm_epsilon, name="norm_after")(h)
        if not normalised:
            return h
        square = jnp.sum(states * states, axis=-1, keepdims=True)
        return states * jax.lax.rsqrt(jnp.maximum(square, _LEAST_LENGTH**2))
