"""The connector of Kosmos: any number of image tokens to a fixed number of embeddings for the decoder."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pmpjax.models.attention import attend_all
from pmpjax.models.layers import Dense


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of a connector; the defaults are Kosmos-2's.

    Attributes:
        latents: embeddings that an image becomes.
        width: of an embedding, which is the decoder's; a multiple of `heads`.
    """

    latents: int = 64
    width: int = 2_048
    heads: int = 32

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of the {self.heads} heads")


class Connector(nn.Module):
    """attention(queries L, keys and values [z; L]), z = W f + b: XConnector of Kosmos-2's code.

    L are learned latents. One cross-attention alone: no residual, no norm, no feed-forward part, and no positions, so
    that the order of the features does not count.

    >>> import jax, jax.numpy as jnp
    >>> connector = Connector(ConnectorConfig(latents=3, width=8, heads=2))
    >>> features = jnp.ones((2, 5, 6))
    >>> params = connector.init(jax.random.key(0), features)["params"]
    >>> connector.apply({"params": params}, features).shape
    (2, 3, 8)
    """

    config: ConnectorConfig

    @nn.compact
    def __call__(self, features: Float[Array, "n p f"]) -> Float[Array, "n k d"]:
        """Embeddings [N, latents, width] of features [N, P, F]."""
        config, rows = self.config, len(features)
        latents = self.param("latents", nn.initializers.normal(1.0), (config.latents, config.width))
        latents = jnp.broadcast_to(latents, (rows, config.latents, config.width)).astype(features.dtype)
        both = jnp.concatenate([Dense(config.width, True, name="features")(features), latents], axis=1)
        query, key, value = (
            Dense(config.width, True, name=name)(x).reshape(rows, x.shape[1], config.heads, -1)
            for name, x in (("query", latents), ("key", both), ("value", both))
        )
        mixed = attend_all(query, key, value).reshape(rows, config.latents, config.width)
        return Dense(config.width, True, name="output")(mixed)
