"""Products and norms: the layers that every part of the decoder is made of."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint
from jaxtyping import Array, Float

from pmpjax.models.config import DecoderConfig


def apply(module: nn.Module, params: Any, *inputs: Any, **options: Any) -> Any:
    """`module.apply` on a plain pytree of parameters; Linen types its result as a union, of which callers know more."""
    return module.apply({"params": params}, *inputs, **options)


def product(x: Float[Array, "*n d"], matrix: Float[Array, "d f"]) -> Float[Array, "*n f"]:
    """x @ matrix, with all leading axes of x in one; float32 at full precision, bfloat16 added up in float32.

    Accelerators round the operands of a float32 product unless told not to, and costates accumulate that rounding.
    One axis of tokens instead of rows and positions makes the weight's gradient one product (524 ms against 406 for a
    gradient of 64 x 64 tokens, width 128, 2 layers, 2 CPU cores).
    """
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), matrix.astype(x.dtype), precision=precision)
    return flat.reshape(*x.shape[:-1], matrix.shape[1])


ROWS, VOCABULARY = "rows", "vocabulary"
"""Names of axes: of a batch, and of a matrix with a row for each token id. Which devices have which part of them is for
the train room to say."""


def laid(x: Float[Array, "..."], axis: str) -> Float[Array, "..."]:
    """x, its first axis cut over the devices as a rule for that name says and the others whole; x where there is none.

    Left to itself the partitioner follows the weights and cuts the features: every device then computes all rows.
    """
    # JAX 0.7 does not look for the mesh in this context by itself when it is given a PartitionSpec: name it.
    mesh = jax.sharding.get_abstract_mesh()
    named: Any = None if mesh.empty else mesh
    return cast(Array, with_logical_constraint(x, (axis, *(None,) * (x.ndim - 1)), mesh=named))


class Dense(nn.Module):
    """x @ kernel, and + bias where asked for."""

    features: int
    biased: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n f"]:
        initializer = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        y = product(x, self.param("kernel", initializer, (x.shape[-1], self.features)))
        if not self.biased:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Norm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis ("rms"); of x - mean(x), and + bias ("layer")."""

    kind: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).reshape(shape)
        wide = x.astype(scale.dtype)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon) * scale
        if self.kind == "layer":
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).reshape(shape)
        return y.astype(x.dtype)


def feed_forward(config: DecoderConfig, x: Float[Array, "n l d"], scale: float) -> Float[Array, "n l d"]:
    """ "swiglu": (silu(x gate) * (x up)) down. "gelu", "gelu_tanh": gelu(x up) down. Called in a block's scope.

    `scale` multiplies the variance of the last kernel at the start.
    """
    up = Dense(config.hidden, config.biases, name="up")(x)
    if config.feed_forward == "swiglu":
        inner = jax.nn.silu(Dense(config.hidden, config.biases, name="gate")(x)) * up
    else:
        inner = jax.nn.gelu(up, approximate=config.feed_forward == "gelu_tanh")
    if config.sub_norm:
        inner = Norm(config.norm, config.norm_epsilon, name="feed_forward_sub_norm")(inner)
    return Dense(config.width, config.biases, scale, name="down")(inner)
