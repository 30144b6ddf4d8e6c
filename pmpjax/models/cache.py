"""Keys and values that rows have so far, and those that all rows share before their own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pmpjax.models.attention import Attached
from pmpjax.models.config import DecoderConfig


class Cache(NamedTuple):
    """Keys and values of the tokens that a row has so far.

    Fields:
        keys, values: for each layer [N, S, K, d], or [layers, N, S, K, d] where layers are scanned.
        lengths: [N] tokens that each row has; what lies behind them is free room. Nothing checks that it lasts, for the
            lengths are known on the device alone: make the cache as long as the rows will be.
        attached: what all rows see before their own tokens; None: nothing. It is kept once, whatever the rows.
    """

    keys: Any
    values: Any
    lengths: Array
    attached: Attached | None = None


def empty_cache(config: DecoderConfig, rows: int, length: int, attached: Attached | None = None) -> Cache:
    """Room for `length` tokens in each of `rows` rows, zeros, behind what is attached."""
    shape = (rows, length, config.key_value_heads, config.size)
    dtype = jnp.bfloat16 if config.compute == "bfloat16" else jnp.result_type(float)
    lengths = jnp.zeros(rows, jnp.int32)
    if config.scan_layers:
        part = jnp.zeros((config.layers, *shape), dtype)
        return Cache(part, part, lengths, attached)
    parts = [jnp.zeros(shape, dtype) for _ in range(config.layers)]
    return Cache(parts, list(parts), lengths, attached)


def take_rows(cache: Any, rows: Int[Array, " r"]) -> Any:
    """The cache of rows[0], rows[1], ...: of a `Cache`, or of any pytree of leaves [N, ...].

    >>> import jax.numpy as jnp
    >>> take_rows({"seen": jnp.array([[1], [2]])}, jnp.array([1, 1, 0]))["seen"].tolist()
    [[2], [2], [1]]
    """

    def take(leaf: Array) -> Array:
        return jnp.take(leaf, rows, axis=0)

    if not isinstance(cache, Cache):
        return jax.tree.map(take, cache)
    keys, values = (
        jax.tree.map(take, part) if isinstance(part, list) else jnp.take(part, rows, axis=1)  # [layers, N, ...]
        for part in (cache.keys, cache.values)
    )
    attached = cache.attached
    if attached is not None and len(attached.first) > 1:
        attached = attached._replace(first=take(attached.first))
    return Cache(keys, values, take(cache.lengths), attached)
