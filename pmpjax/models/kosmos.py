"""Kosmos-2: the decoder, which reads embeddings of images at marked positions in place of tokens."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from pmpjax.models.cache import Cache
from pmpjax.models.config import DecoderConfig
from pmpjax.models.connector import Connector, ConnectorConfig
from pmpjax.models.decoder import Decoder
from pmpjax.models.layers import VOCABULARY, apply, laid
from pmpjax.models.losses import Parameters, label_mask
from pmpjax.models.vision import Vision, VisionConfig


@dataclasses.dataclass(frozen=True)
class KosmosConfig:
    """The three parts of a Kosmos.

    Attributes:
        decoder: of text; `magneto` makes the one of Kosmos-2.
        vision: the tower that reads images.
        latents: embeddings that an image becomes.
    """

    decoder: DecoderConfig
    vision: VisionConfig = dataclasses.field(default_factory=VisionConfig)
    latents: int = 64

    @property
    def connector(self) -> ConnectorConfig:
        """It has the decoder's width and heads."""
        return ConnectorConfig(self.latents, self.decoder.width, self.decoder.heads)


def magneto(vocabulary: int = 65_037, width: int = 2_048, heads: int = 32, **changes: Any) -> DecoderConfig:
    """Kosmos-2's decoder: layer norms before and inside each sub-layer (arXiv 2210.06423), sinusoids from position 2,
    embeddings times sqrt(width), GELU, biases; the sizes are the published ones.

    >>> magneto(99, 32, 4, layers=2, hidden=37).embedding_scale == 32**0.5
    True
    """
    fields: dict[str, Any] = {"layers": 24, "hidden": 4 * width, "key_value_heads": heads, "norm": "layer"}
    fields |= {"sub_norm": True, "feed_forward": "gelu", "biases": True, "positions": "tensor2tensor"}
    fields |= {"first_position": 2, "embedding_scale": math.sqrt(width), "norm_epsilon": 1e-5}
    return DecoderConfig(vocabulary, width, heads=heads, **(fields | changes))


class ImageRows(NamedTuple):
    """Rows of text with images in them.

    Fields:
        tokens: [N, L] ids; those at `places` are not read.
        lengths: [N] tokens of each row that count.
        images: [N, K, size, size, channels], each row's in their order; a row with fewer is filled up with anything.
            None: text alone.
        places: [N, L] where a row reads embeddings: those of its first image at its first places, and so on.
        predicted: [N, L] tokens that the loss is made of; None: all that are not at `places`.
        segments: [N, L] numbers of packed documents, or None.
    """

    tokens: Any
    lengths: Any
    images: Any = None
    places: Any = None
    predicted: Any = None
    segments: Any = None


class EmbeddedRows(NamedTuple):
    """Rows whose `tokens` are embeddings [N, L, width]: prompts for `generate`."""

    tokens: Any
    lengths: Any
    segments: Any = None


class Kosmos(nn.Module):
    """p(token_{i+1} | what stands at 0..i, text or images) (Kosmos-2, arXiv 2306.14824).

    x_i = E[token_i], and at the j-th marked place of a row the j-th of connector(vision(images)); the decoder reads
    x and is no other than for text: `params["decoder"]` are those of `Decoder(config.decoder)`.

    >>> import jax
    >>> vision = VisionConfig(size=8, patch=4, width=8, layers=1, heads=2, hidden=16)
    >>> kosmos = Kosmos(KosmosConfig(magneto(11, 8, 2, layers=1, hidden=16), vision, latents=2))
    >>> tokens, images = jnp.ones((1, 5), jnp.int32), jnp.zeros((1, 1, 8, 8, 3))
    >>> places = jnp.array([[False, True, True, False, False]])
    >>> params = kosmos.init(jax.random.key(0), tokens, images, places)["params"]
    >>> apply(kosmos, params, tokens, images, places).shape
    (1, 5, 11)
    """

    config: KosmosConfig

    def setup(self):
        self.decoder = Decoder(self.config.decoder)
        self.vision = Vision(self.config.vision)
        self.connector = Connector(self.config.connector)

    def __call__(
        self,
        tokens: Int[Array, "n l"],
        images: Float[Array, "n k y x c"] | None = None,
        places: Bool[Array, "n l"] | None = None,
        segments: Int[Array, "n l"] | None = None,
        cache: Cache | None = None,
    ) -> Any:
        """Logits [N, L, V], with a cache (logits, cache); arguments as `ImageRows` and `Decoder` have them."""
        return self.decoder(self.inputs(tokens, images, places), None, segments, cache)

    def image_embeddings(self, images: Float[Array, "n k y x c"]) -> Float[Array, "n j d"]:
        """connector(v / |v|), v the normed states of the vision tower: [N, K latents, width], image by image."""
        rows, count = images.shape[:2]
        features = self.vision(images.reshape(-1, *images.shape[2:]), normalised=True)
        return self.connector(features).reshape(rows, count * self.config.latents, -1)

    def inputs(
        self,
        tokens: Int[Array, "n l"],
        images: Float[Array, "n k y x c"] | None = None,
        places: Bool[Array, "n l"] | None = None,
    ) -> Array:
        """What the decoder reads: embeddings [N, L, width], or without images the tokens themselves.

        Raises ValueError for images without places or places without images, and, where `places` are known, for a
        row with more of them than its images have embeddings.
        """
        if (images is None) != (places is None):
            given, absent = ("places", "images") if images is None else ("images", "places")
            raise ValueError(f"{given} without {absent}: give both, or neither for text alone")
        if images is None or places is None:
            return tokens
        room = images.shape[1] * self.config.latents
        _demand_room(places, room, self.config.latents)
        found = self.image_embeddings(images)
        index = jnp.clip(jnp.cumsum(places, axis=1) - 1, 0, room - 1)
        at_places = jnp.take_along_axis(found, index[:, :, None], axis=1)
        own = laid(self.decoder.trunk.embedding, VOCABULARY)[tokens]
        return jnp.where(places[:, :, None], at_places.astype(own.dtype), own)

    def token_losses(
        self,
        tokens: Int[Array, "n l"],
        images: Float[Array, "n k y x c"] | None = None,
        places: Bool[Array, "n l"] | None = None,
        segments: Int[Array, "n l"] | None = None,
    ) -> Float[Array, "n labels"]:
        """-log p(token_{i+1} | what stands before it) in nats; mask it by `image_label_mask`."""
        read = self.inputs(tokens, images, places)
        return self.decoder.token_losses(tokens, segments, None if images is None else read)


def _demand_room(places: Array, room: int, latents: int) -> None:
    if isinstance(places, Tracer):
        return
    most = np.asarray(places).sum(axis=1)
    if len(most) and most.max() > room:
        row = int(most.argmax())
        raise ValueError(
            f"row {row} has {most[row]} places for {room // latents} images of {latents} embeddings, {room} in all; "
            "mark as many places as its images fill"
        )


def image_label_mask(rows: ImageRows) -> Float[Array, "n labels"]:
    """`label_mask` where token i + 1 is text, and `predicted` where a row says so.

    >>> places = np.array([[False, True, False, False]])
    >>> image_label_mask(ImageRows(np.zeros((1, 4), int), np.array([4]), places=places)).tolist()
    [[0.0, 1.0, 1.0]]
    """
    mask = label_mask(rows)
    if rows.places is not None:
        mask = mask * ~jnp.asarray(rows.places, bool)[:, 1:]
    return mask if rows.predicted is None else mask * jnp.asarray(rows.predicted, bool)[:, 1:]


def image_example_losses(kosmos: Kosmos):
    """losses(params, rows) -> [N]: as `example_losses`, for `ImageRows`."""

    def losses(params: Parameters, rows: ImageRows) -> Float[Array, " n"]:
        token, mask = _labelled(kosmos, params, rows)
        return jnp.sum(token * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)

    return losses


def image_token_loss(kosmos: Kosmos):
    """loss(params, rows) -> (sum, count): as `mean_token_loss`, for `ImageRows`."""

    def loss(params: Parameters, rows: ImageRows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        token, mask = _labelled(kosmos, params, rows)
        return jnp.sum(token * mask), jnp.sum(mask)

    return loss


def _labelled(kosmos: Kosmos, params: Parameters, rows: ImageRows) -> tuple[Array, Array]:
    token = apply(kosmos, params, rows.tokens, rows.images, rows.places, rows.segments, method="token_losses")
    return token, image_label_mask(rows).astype(token.dtype)


def embedded(kosmos: Kosmos, params: Parameters, rows: ImageRows) -> EmbeddedRows:
    """What the decoder reads of `rows`: with `params["decoder"]`, prompts of `generate` for `Decoder(config.decoder)`.

    Images are read here once, and never again while the decoder writes.
    """
    read = apply(kosmos, params, rows.tokens, rows.images, rows.places, method="inputs")
    return EmbeddedRows(read, rows.lengths, rows.segments)
