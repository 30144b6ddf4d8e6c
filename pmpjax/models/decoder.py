"""The decoder of the whole library: embeddings, blocks of attention and feed-forward, and the output product."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pmpjax.models.attention import (
    Attached,
    Visible,
    attend,
    attend_by_library,
    attend_cached,
    attention_weights,
    momentum,
)
from pmpjax.models.cache import Cache
from pmpjax.models.config import DecoderConfig
from pmpjax.models.cross_entropy import cross_entropy
from pmpjax.models.layers import ROWS, VOCABULARY, Dense, Norm, feed_forward, laid, product
from pmpjax.models.positions import rotate, segment_positions, sinusoidal, slopes, tensor2tensor

RECORDED = "intermediates"
"""The Flax collection of what is recorded; ask for it by `mutable=[RECORDED]`, or call `recorded`."""


class Seen(NamedTuple):
    """What a block must know in addition to the residual stream: positions of the queries, [N or 1, L], segments and
    log weights as `Decoder` takes them, how many tokens the cache holds of each row, [N], and what is attached before
    the rows, without its keys and values: they come with the cache's, layer by layer."""

    positions: Array
    segments: Array | None = None
    key_log_weight: Array | None = None
    lengths: Array | None = None
    attached: Attached | None = None


class Block(nn.Module):
    """h + attention(norm(h)), then h + feed_forward(norm(h)); returns the keys and values of the cache as well."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, h: Float[Array, "n l d"], seen: Seen, cache: tuple[Array, Array, Any] | None
    ) -> tuple[Float[Array, "n l d"], tuple[Array, Array] | None]:
        config = self.config
        n, length, width = h.shape
        residual = 1.0 / (2 * config.layers)  # so that the stream's variance at the start does not grow with depth

        z = Norm(config.norm, config.norm_epsilon, name="attention_norm")(h)
        query, key, value = (
            Dense(heads * config.size, config.biases, name=name)(z).reshape(n, length, heads, config.size)
            for name, heads in (
                ("query", config.heads),
                ("key", config.key_value_heads),
                ("value", config.key_value_heads),
            )
        )
        if config.positions in ("rotary", "xpos"):
            decay = int(config.positions == "xpos")
            query = rotate(query, seen.positions, config.rope_base, decay)
            key = rotate(key, seen.positions, config.rope_base, -decay)
        pair = None
        if cache is None:
            mixed = self._attend(query, key, value, seen)
        else:
            assert seen.lengths is not None
            key, value = pair = _write(cache[0], key, seen.lengths), _write(cache[1], value, seen.lengths)
            mixed = self._attend_cached(query, key, value, seen, cache[2])
        mixed = mixed.reshape(n, length, -1)
        if config.sub_norm:
            mixed = Norm(config.norm, config.norm_epsilon, name="attention_sub_norm")(mixed)
        h = h + Dense(width, config.biases, residual, name="output")(mixed)

        z = Norm(config.norm, config.norm_epsilon, name="feed_forward_norm")(h)
        h = laid(h + feed_forward(config, z, residual), ROWS)
        self.sow(RECORDED, "block", h)
        return h, pair

    def _visible(self, seen: Seen) -> Visible:
        penalty = jnp.asarray(slopes(self.config.heads)) if self.config.positions == "alibi" else None
        return Visible(self.config.window, seen.segments, seen.key_log_weight, penalty)

    def _attend_cached(self, query: Array, key: Array, value: Array, seen: Seen, shared: Any) -> Array:
        if self.config.momentum:
            raise ValueError(
                f"momentum {self.config.momentum} needs sums that no cache holds: read whole rows without a cache"
            )
        attached = None if seen.attached is None else seen.attached.of_layer(shared)
        return attend_cached(query, key, value, seen.positions, self._visible(seen), attached)

    def _attend(self, query: Array, key: Array, value: Array, seen: Seen) -> Array:
        config, visible = self.config, self._visible(seen)
        if self.is_mutable_collection(RECORDED) and not self.is_initializing():
            self.sow(RECORDED, "attention", attention_weights(query, key, visible))
        if config.attention == "blocks":
            mixed = attend(query, key, value, visible, config.attention_block)
        else:
            mixed = attend_by_library(query, key, value, visible, config.attention)
        return mixed + momentum(value, config.momentum, config.heads, visible) if config.momentum else mixed


def _write(old: Array, new: Array, at: Int[Array, " n"]) -> Array:
    """`old` with `new` at places at[n], at[n] + 1, ... of each row."""
    return jax.vmap(lambda row, part, begin: jax.lax.dynamic_update_slice_in_dim(row, part, begin, 0))(
        old, new.astype(old.dtype), at
    )


_POLICIES = {"full": None, "products": jax.checkpoint_policies.dots_saveable}


class Trunk(nn.Module):
    """Token ids [N, L], or embeddings [N, L, width], to hidden states [N, L, width]: what decoder and scorer share."""

    config: DecoderConfig

    def setup(self):
        config = self.config
        initializer = nn.initializers.normal(1.0 / math.sqrt(config.width))
        self.embedding = self.param("embedding", initializer, (config.vocabulary, config.width))
        if config.positions == "learned":
            self.positions = self.param("positions", initializer, (config.max_length, config.width))
        block: Any = Block if config.remat == "none" else nn.remat(Block, policy=_POLICIES[config.remat])
        if config.scan_layers:
            block = nn.scan(
                block,
                variable_axes={"params": 0, RECORDED: 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]: a tuple is what its documentation shows
                length=config.layers,
            )
            self.layers = block(config)
        else:
            self.layers = [block(config) for _ in range(config.layers)]
        self.norm = Norm(config.norm, config.norm_epsilon)

    def __call__(
        self,
        inputs: Array,
        key_log_weight: Float[Array, "n s"] | None = None,
        segments: Int[Array, "n l"] | None = None,
        cache: Cache | None = None,
    ) -> Any:
        """Hidden states, and with a cache (hidden states, cache with these tokens); arguments as `Decoder.__call__`."""
        length = inputs.shape[1]
        positions = jnp.arange(length)[None, :]
        if cache is not None:
            if segments is not None:
                raise ValueError("a cache holds one document a row: give segments or a cache, not both")
            first = 0 if cache.attached is None else cache.attached.first[:, None]
            positions = first + cache.lengths[:, None] + positions
        h = self.embed(inputs, positions if segments is None else segment_positions(segments))
        # Rotary angles count from the row's begin: only differences inside a document matter.
        if cache is None:
            return self.norm(self._through_layers(h, Seen(positions, segments, key_log_weight), None)[0])
        attached = cache.attached
        shared, rest = (None, None) if attached is None else attached.split()
        seen = Seen(positions, None, key_log_weight, cache.lengths, rest)
        h, (keys, values) = self._through_layers(h, seen, (cache.keys, cache.values, shared))
        return self.norm(h), Cache(keys, values, cache.lengths + length, attached)

    def embed(self, inputs: Array, positions: Int[Array, "m l"]) -> Float[Array, "n l d"]:
        """What the first block reads: embeddings with what the positions add, which are counted inside a document."""
        h = laid(self.embedding, VOCABULARY)[inputs] if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs
        if self.config.compute == "bfloat16":
            h = h.astype(jnp.bfloat16)
        if self.config.embedding_scale != 1.0:
            h = h * self.config.embedding_scale
        return self._with_positions(laid(h, ROWS), positions)

    def _through_layers(self, h: Array, seen: Seen, pairs: Any) -> tuple[Array, Any]:
        """`pairs` are the cache's (keys, values, what is attached), or None; what the layers wrote of the first two
        comes back."""
        layers: Any = self.layers
        if self.config.scan_layers:
            return layers(h, seen, pairs)
        written = []
        for index, layer in enumerate(layers):
            own = None
            if pairs is not None:
                own = (pairs[0][index], pairs[1][index], jax.tree.map(lambda leaf, i=index: leaf[i], pairs[2]))
            h, pair = layer(h, seen, own)
            written.append(pair)
        return h, None if pairs is None else tuple(map(list, zip(*written, strict=True)))

    def _with_positions(self, h: Array, positions: Array) -> Array:
        config = self.config
        if config.positions in ("sinusoidal", "tensor2tensor"):
            waves = sinusoidal if config.positions == "sinusoidal" else tensor2tensor
            return h + waves(positions + config.first_position, config.width, h.dtype)
        if config.positions == "learned":
            if h.shape[1] > config.max_length:
                raise ValueError(
                    f"rows of {h.shape[1]} tokens are longer than the learned positions, max_length "
                    f"{config.max_length}; cut the rows or train a longer model"
                )
            return h + self.positions[positions].astype(h.dtype)
        return h


class Decoder(nn.Module):
    """p(token_{i+1} | tokens_{0..i}): the trunk and the output product.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.data import Rows
    >>> from pmpjax.models import example_losses, initialise
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

    def __call__(
        self,
        inputs: Array,
        key_log_weight: Float[Array, "n s"] | None = None,
        segments: Int[Array, "n l"] | None = None,
        cache: Cache | None = None,
    ) -> Any:
        """Logits [N, L, V] of the token after each position, in float32 at least; with a cache (logits, cache).

        Args:
            inputs: ids [N, L], or embeddings [N, L, width] in place of the matrix's rows.
            key_log_weight: added to every query's logit of a key: the logarithm of a weight on that token. [N, L], with
                a cache [N, S].
            segments: numbers of the documents packed in a row; none sees another.
            cache: what the rows have so far (`empty_cache`); `inputs` go on from there.
        """
        h = self.trunk(inputs, key_log_weight, segments, cache)
        if cache is None:
            return self.logits(h)
        return self.logits(h[0]), h[1]

    def hidden(
        self, inputs: Array, key_log_weight: Float[Array, "n s"] | None = None, cache: Cache | None = None
    ) -> Any:
        """Hidden states [N, L, width], from which `logits` makes those of a few positions; arguments as `__call__`."""
        return self.trunk(inputs, key_log_weight, None, cache)

    def logits(self, h: Float[Array, "*n d"]) -> Float[Array, "*n v"]:
        """The output product of hidden states, in float32 at least."""
        logits = product(h, self._output().T)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def token_losses(
        self,
        tokens: Int[Array, "n l"],
        segments: Int[Array, "n l"] | None = None,
        inputs: Float[Array, "n l d"] | None = None,
    ) -> Float[Array, "n labels"]:
        """-log p(token_{i+1} | tokens_{0..i}) in nats, for i = 0..L-2, padding included: mask it by `label_mask`.

        `inputs` are embeddings that are read in place of the tokens' own.
        """
        read = tokens if inputs is None else inputs
        h = self.trunk(read[:, :-1], None, None if segments is None else segments[:, :-1])
        output = laid(self._output(), VOCABULARY)
        losses = cross_entropy(
            h.reshape(-1, self.config.width), output, tokens[:, 1:].reshape(-1), self.config.loss_chunk
        )
        return losses.reshape(tokens.shape[0], tokens.shape[1] - 1)
