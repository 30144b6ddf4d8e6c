"""A decoder of the Mistral/Llama architecture: RMS norm, rotary positions, grouped-query attention, SwiGLU."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

Parameters = Any
"""A pytree of arrays: what `flax.linen.Module.init` puts under "params"."""


class Rows(NamedTuple):
    """Token sequences, padded to one length: the batch that every loss of this package's decoder takes.

    Fields:
        tokens: [N, L] integer ids. What follows a row's length is padding, of any id.
        lengths: [N] integers, tokens that are text. The tokens at 1..length-1 are predicted, each from those before it.
    """

    tokens: Any
    lengths: Any


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Attributes:
        vocabulary: number of token ids.
        width: features of the residual stream.
        layers: blocks of attention and feed-forward.
        heads: query heads; `width` is a multiple of it, and `width / heads` is even (rotary pairs).
        key_value_heads: heads that keys and values have; divides `heads`.
        hidden: features inside the feed-forward block.
        rope_base: base of the rotary frequencies.
        norm_epsilon: added to the mean square in each norm.
        tied_embeddings: whether the output product uses the embedding's matrix.
        loss_chunk: tokens whose logits exist at the same time in the loss (0: those of all tokens).
    """

    vocabulary: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    hidden: int = 336
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    loss_chunk: int = 512

    def __post_init__(self):
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"width / heads must be an even whole number: width {self.width}, heads {self.heads}; change either"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"key_value_heads must divide heads: {self.key_value_heads} does not divide {self.heads}; change either"
            )


def product(x: Array, matrix: Array) -> Array:
    """x @ matrix at the inputs' full precision.

    Accelerators round the operands of a float32 product unless told not to, and costates accumulate that rounding.
    """
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def rotate(x: Float[Array, "n l h d"], positions: Int[Array, " l"], base: float) -> Float[Array, "n l h d"]:
    """R(p) x: the pair (x_j, x_{j + d/2}) turned by the angle p * base^(-2j/d).

    <R(p) q, R(s) k> depends on p - s alone (RoFormer, arXiv 2104.09864, equation 16; pairs are halves, as in Llama).
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = positions.astype(x.dtype)[:, None] * frequencies[None, :]
    cosine, sine = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def attend(
    query: Float[Array, "n l h d"],
    key: Float[Array, "n l k d"],
    value: Float[Array, "n l k d"],
    key_log_weight: Float[Array, "n l"] | None = None,
) -> Float[Array, "n l h d"]:
    """softmax_s(<q_p, k_s> / sqrt(d) + b_s, s <= p) v: causal attention in which h / k query heads share each key head.

    `key_log_weight` b is added to every query's logit of a key: the logarithm of a weight on that key.
    """
    # jax.nn.dot_product_attention gives the same numbers and has second derivatives, but its jvp of grad took 677 ms
    # where this takes 418 (32 x 128 tokens, width 128, 2 layers, 2 CPU cores): folding the group into the query's
    # length keeps one batched product a key head instead of repeating the keys.
    n, length, heads, size = query.shape
    shared = key.shape[2]
    group = heads // shared
    query = (
        query.reshape(n, length, shared, group, size).transpose(0, 2, 3, 1, 4).reshape(n, shared, group * length, size)
    )
    logits = jnp.einsum("nkqd,nskd->nkqs", query, key, precision=jax.lax.Precision.HIGHEST) / math.sqrt(size)
    logits = logits.reshape(n, shared, group, length, length)
    if key_log_weight is not None:
        logits = logits + key_log_weight[:, None, None, None, :]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None, None]
    weights = jax.nn.softmax(jnp.where(causal, logits, jnp.finfo(logits.dtype).min), axis=-1)
    mixed = jnp.einsum(
        "nkqs,nskd->nkqd",
        weights.reshape(n, shared, group * length, length),
        value,
        precision=jax.lax.Precision.HIGHEST,
    )
    return mixed.reshape(n, shared, group, length, size).transpose(0, 3, 1, 2, 4).reshape(n, length, heads, size)


class Norm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale, over the last axis."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale[None, :]


class Dense(nn.Module):
    """x @ kernel, without a bias."""

    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m f"]:
        initializer = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        return product(x, self.param("kernel", initializer, (x.shape[-1], self.features)))


class Block(nn.Module):
    """h + attention(norm(h)), then h + feed_forward(norm(h)); tokens of all rows lie in one axis [N * L, width]."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, h: Float[Array, "m d"], n: int, key_log_weight: Float[Array, "n l"] | None
    ) -> Float[Array, "m d"]:
        config = self.config
        size = config.width // config.heads
        positions = jnp.arange(h.shape[0] // n)
        residual = 1.0 / (2 * config.layers)  # so that the stream's variance at the start does not grow with depth

        z = Norm(config.norm_epsilon, name="attention_norm")(h)
        query = Dense(config.heads * size, name="query")(z).reshape(n, -1, config.heads, size)
        key = Dense(config.key_value_heads * size, name="key")(z).reshape(n, -1, config.key_value_heads, size)
        value = Dense(config.key_value_heads * size, name="value")(z).reshape(n, -1, config.key_value_heads, size)
        query, key = (rotate(x, positions, config.rope_base) for x in (query, key))
        mixed = attend(query, key, value, key_log_weight).reshape(h.shape[0], config.heads * size)
        h = h + Dense(config.width, residual, name="output")(mixed)

        z = Norm(config.norm_epsilon, name="feed_forward_norm")(h)
        gate = jax.nn.silu(Dense(config.hidden, name="gate")(z))
        return h + Dense(config.width, residual, name="down")(gate * Dense(config.hidden, name="up")(z))


class Trunk(nn.Module):
    """Token ids [N, L], or embeddings [N, L, width], to hidden states [N, L, width]: what decoder and scorer share."""

    config: DecoderConfig

    def setup(self):
        initializer = nn.initializers.normal(1.0 / math.sqrt(self.config.width))
        self.embedding = self.param("embedding", initializer, (self.config.vocabulary, self.config.width))
        # Unrolled, not scanned: the gradient of 2 layers took 311 ms against 406 (2 CPU cores).
        self.layers = [Block(self.config) for _ in range(self.config.layers)]
        self.norm = Norm(self.config.norm_epsilon)

    def __call__(self, inputs: Array, key_log_weight: Float[Array, "n l"] | None = None) -> Float[Array, "n l d"]:
        n, length = inputs.shape[:2]
        h = self.embedding[inputs] if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs
        h = h.reshape(n * length, self.config.width)
        for layer in self.layers:
            h = layer(h, n, key_log_weight)
        return self.norm(h).reshape(n, length, self.config.width)


class Decoder(nn.Module):
    """p(token_{i+1} | tokens_{0..i}): the trunk and the output product.

    >>> import jax, jax.numpy as jnp
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> rows = Rows(jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]]), jnp.array([4, 2]))
    >>> params = initialise(decoder, jax.random.key(0), rows.tokens)
    >>> jax.jit(decoder.apply)({"params": params}, rows.tokens).shape
    (2, 4, 11)
    >>> jax.jit(example_losses(decoder))(params, rows).shape
    (2,)
    """

    config: DecoderConfig

    def setup(self):
        self.trunk = Trunk(self.config)
        if not self.config.tied_embeddings:
            initializer = nn.initializers.normal(1.0 / math.sqrt(self.config.width))
            self.output = self.param("output", initializer, (self.config.vocabulary, self.config.width))

    def _output(self) -> Float[Array, "v d"]:
        return self.trunk.embedding if self.config.tied_embeddings else self.output

    def __call__(self, inputs: Array, key_log_weight: Float[Array, "n l"] | None = None) -> Float[Array, "n l v"]:
        """Logits of the token after each position; `inputs` are ids [N, L] or embeddings [N, L, width]."""
        h = self.trunk(inputs, key_log_weight)
        n, length, width = h.shape
        return product(h.reshape(n * length, width), self._output().T).reshape(n, length, self.config.vocabulary)

    def token_losses(self, tokens: Int[Array, "n l"]) -> Float[Array, "n labels"]:
        """-log p(token_{i+1} | tokens_{0..i}) in nats, for i = 0..L-2, padding included: mask it by the lengths."""
        h = self.trunk(tokens[:, :-1])
        losses = cross_entropy(
            h.reshape(-1, self.config.width), self._output(), tokens[:, 1:].reshape(-1), self.config.loss_chunk
        )
        return losses.reshape(tokens.shape[0], tokens.shape[1] - 1)


def cross_entropy(
    h: Float[Array, "m d"], output: Float[Array, "v d"], labels: Int[Array, " m"], chunk: int = 512
) -> Float[Array, " m"]:
    """-log softmax(output h)_label for each of m hidden states, with the logits of `chunk` states at a time (0: all).

    Logits are computed again in the backward pass instead of being kept. Chunks of tokens were as fast as no chunks at
    a vocabulary of 2,048 and 10% faster at 8,192 (305 ms against 336; chunks of the vocabulary 349), in less memory.
    """
    normaliser = jax.checkpoint(lambda states: jax.nn.logsumexp(product(states, output.T), axis=-1))
    label_logits = jnp.sum(h * output[labels], axis=-1)
    if not chunk or h.shape[0] <= chunk:
        return normaliser(h) - label_logits
    padded = jnp.pad(h, ((0, -h.shape[0] % chunk), (0, 0)))
    normalisers = jax.lax.map(normaliser, padded.reshape(-1, chunk, h.shape[1])).reshape(-1)
    return normalisers[: h.shape[0]] - label_logits


def label_mask(rows: Rows) -> Float[Array, "n labels"]:
    """m[n, i] = 1 if i + 1 < lengths[n]: whether position i predicts text.

    >>> import numpy as np
    >>> label_mask(Rows(np.zeros((2, 4), int), np.array([3, 1]))).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    positions = jnp.arange(1, rows.tokens.shape[1])
    return (positions[None, :] < jnp.asarray(rows.lengths)[:, None]).astype(jnp.float32)


def _token_losses(decoder: Decoder, params: Parameters, tokens: Array) -> Array:
    losses = decoder.apply({"params": params}, tokens, method="token_losses")
    assert isinstance(losses, jax.Array)  # Linen types `apply` as a union, which holds a tuple
    return losses


def example_losses(decoder: Decoder):
    """losses(params, rows) -> [N]: the mean loss over each row's labels, in nats a token; 0 for a row without one."""

    def losses(params: Parameters, rows: Rows) -> Float[Array, " n"]:
        token = _token_losses(decoder, params, rows.tokens)
        mask = label_mask(rows).astype(token.dtype)
        return jnp.sum(token * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)

    return losses


def mean_token_loss(decoder: Decoder):
    """loss(params, rows) -> (sum, count): the loss in nats added over the labels of all rows, and how many they are."""

    def loss(params: Parameters, rows: Rows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        token = _token_losses(decoder, params, rows.tokens)
        mask = label_mask(rows).astype(token.dtype)
        return jnp.sum(token * mask), jnp.sum(mask)

    return loss


def initialise(module: nn.Module, key: Array, *inputs: Any) -> Parameters:
    """The module's random parameters, as a plain pytree; of the inputs only shapes and dtypes matter."""
    return jax.jit(module.init)(key, *inputs)["params"]


def parameter_count(params: Parameters) -> int:
    """Numbers held by a pytree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
