"""The data scorer of PDS: a decoder's trunk, the mean over the tokens, and a linear head."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pmpjax.models.config import DecoderConfig
from pmpjax.models.decoder import Trunk
from pmpjax.models.layers import product
from pmpjax.models.losses import Parameters


class ScorerModel(nn.Module):
    """w . mean_i h_i + b over the text of each row: predicted standardised score (PDS, section 2.3).

    Its trunk has the parameters of a decoder's trunk of the same config, so that it may start from a trained one
    (`with_trunk`). The head starts at zero: the first prediction is the mean of standardised scores.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.models import initialise
    >>> model = ScorerModel(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> tokens, lengths = jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]]), jnp.array([4, 2])
    >>> params = initialise(model, jax.random.key(0), tokens, lengths)
    >>> jax.jit(model.apply)({"params": params}, tokens, lengths).tolist()
    [0.0, 0.0]
    """

    config: DecoderConfig

    def setup(self):
        self.trunk = Trunk(self.config)
        self.weight = self.param("weight", nn.initializers.zeros, (self.config.width, 1))
        self.bias = self.param("bias", nn.initializers.zeros, ())

    def __call__(self, tokens: Int[Array, "n l"], lengths: Int[Array, " n"]) -> Float[Array, " n"]:
        h = self.trunk(tokens)
        mask = (jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]).astype(h.dtype)
        pooled = jnp.sum(h * mask[:, :, None], axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]
        return product(pooled, self.weight)[:, 0] + self.bias


def with_trunk(scorer_params: Parameters, decoder_params: Parameters) -> Parameters:
    """The scorer's parameters with the trunk of a trained decoder of the same config."""
    return {**scorer_params, "trunk": decoder_params["trunk"]}
