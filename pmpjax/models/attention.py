"""Causal attention with grouped heads, windows, packed documents and weights on keys, differentiable to any order."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

HIDDEN = -1e30
"""The logit of a key that is not seen: its exponential is 0 compared with others, and differences stay finite."""


class Visible(NamedTuple):
    """Which keys a query sees, and what is added to their logits.

    Fields:
        window: keys seen, the query itself among them; None: all before it.
        segments: [N, L] numbers of documents; only keys of the query's own are seen. None: all are.
        key_log_weight: [N, L] the logarithm of a weight on each key; None: weight 1.
        slopes: [H] ALiBi's penalty a step of distance; None: none.
    """

    window: int | None = None
    segments: Array | None = None
    key_log_weight: Array | None = None
    slopes: Array | None = None


class Part(NamedTuple):
    """Keys and values that all rows see before their own.

    Fields:
        keys, values: [layers, 1, S, K, d], or [1, S, K, d] of one layer; keys are rotated for their positions.
        positions: [1, S] where the keys stand: a penalty on the distance, or a window, counts from there.
        log_weight: [1, S] added to the logits of the keys; `HIDDEN` for those that nobody sees.
        power: p of Z^p, to which the sum Z of the exponentials of the part is raised before parts are mixed.
    """

    keys: Any
    values: Any
    positions: Array
    log_weight: Array
    power: Array


class Attached(NamedTuple):
    """What all rows see before their own tokens: parts, each kept once.

        o = (sum_p Z_p^power_p o_p + w Z o) / (sum_p Z_p^power_p + w Z),

    with Z the sum of the exponentials of a part's logits, o the softmax over it applied to its values, and those
    without an index of the row's own tokens.

    Fields:
        parts: in any order.
        first: [N or 1] position of a row's first own token.
        own_log_weight: log w, a scalar, added to the logit of every key of a row's own, written or yet to come.
    """

    parts: tuple[Part, ...]
    first: Array
    own_log_weight: Array

    def split(self) -> tuple[Any, "Attached"]:
        """(keys and values of each part, the rest)."""
        pairs = [(part.keys, part.values) for part in self.parts]
        return pairs, self._replace(parts=tuple(part._replace(keys=None, values=None) for part in self.parts))

    def of_layer(self, pairs: Any) -> "Attached":
        """With the keys and values of one layer."""
        parts = zip(self.parts, pairs, strict=True)
        return self._replace(parts=tuple(part._replace(keys=keys, values=values) for part, (keys, values) in parts))


def attend(
    query: Float[Array, "n l h d"],
    key: Float[Array, "n l k d"],
    value: Float[Array, "n l k d"],
    visible: Visible = Visible(),
    block: int = 64,
) -> Float[Array, "n l h d"]:
    """softmax_s(<q_p, k_s> / sqrt(d) + b_ps, s <= p) v, in which h / k query heads share each key head.

    Queries are taken in at most 8 blocks of at least `block`; a block sees no key behind its last query, nor one
    before its window: for long rows about half of the square is neither computed nor kept.
    """
    # jax.nn.dot_product_attention over the same blocks gives the same numbers and has second derivatives, but a
    # gradient of 16 x 256 tokens, width 256, 6 layers took 2.29 CPU seconds and 1,021 MB with it, 2.04 and 798 here
    # (2.68 and 1,215 without blocks): it repeats what here is divided once after the second product.
    length = query.shape[1]
    block = max(block, -(-length // 8))
    parts = []
    for begin in range(0, length, block):
        end = min(begin + block, length)
        first = 0 if visible.window is None else max(0, begin - visible.window + 1)
        queries, seen = slice(begin, end), slice(first, end)
        bias = _bias(visible, jnp.arange(begin, end)[None, :], jnp.arange(first, end)[None, :], queries, seen)
        parts.append(_attend_block(query[:, queries], key[:, seen], value[:, seen], bias))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def attend_cached(
    query: Float[Array, "n l h d"],
    key: Float[Array, "n s k d"],
    value: Float[Array, "n s k d"],
    positions: Int[Array, "n l"],
    visible: Visible = Visible(),
    attached: Attached | None = None,
) -> Float[Array, "n l h d"]:
    """The same for queries at `positions` of each row, and keys at 0..S-1, of which those behind a query do not count.

    With `attached`, of one layer, the row's own keys stand at first, first + 1, ..., and its parts before them.
    `visible.segments` must be None: a row that is being written is one document.
    """
    places = jnp.arange(key.shape[1])[None, :]
    if attached is None:
        return _attend_block(query, key, value, _bias(visible, positions, places, slice(None), slice(None)))
    first = jnp.broadcast_to(attached.first[:, None], (query.shape[0], 1))
    own = _sums(query, key, value, _bias(visible, positions - first, places, slice(None), slice(None)))
    outputs, logs = [own.mixed / own.total[..., None]], [own.log_total + attached.own_log_weight]
    for part in attached.parts:
        found = _shared_sums(query, part, positions, visible)
        outputs.append(found.mixed / found.total[..., None])
        logs.append(found.log_total * part.power)
    shares = jax.nn.softmax(jnp.stack(logs), axis=0)
    mixed = sum(share[..., None] * output for share, output in zip(shares, outputs, strict=True))
    return _by_token(jnp.asarray(mixed).astype(value.dtype))


def attend_all(
    query: Float[Array, "n l h d"],
    key: Float[Array, "n s k d"],
    value: Float[Array, "n s k d"],
    key_log_weight: Float[Array, "n s"] | None = None,
) -> Float[Array, "n l h d"]:
    """softmax_s(<q_p, k_s> / sqrt(d) + w_s) v over every key: attention without an order, to another sequence too."""
    # A query sees the keys up to its place: with all of them at the last one, each sees the whole row.
    places = jnp.full(query.shape[:2], key.shape[1] - 1)
    return attend_cached(query, key, value, places, Visible(key_log_weight=key_log_weight))


def attend_by_library(
    query: Float[Array, "n l h d"],
    key: Float[Array, "n l k d"],
    value: Float[Array, "n l k d"],
    visible: Visible,
    implementation: str,
) -> Float[Array, "n l h d"]:
    """`jax.nn.dot_product_attention`; "cudnn" has first derivatives only."""
    place = jnp.arange(query.shape[1])[None, :]
    bias = _bias(visible, place, place, slice(None), slice(None))
    return jax.nn.dot_product_attention(
        query, key, value, bias=bias.astype(query.dtype), implementation="cudnn" if implementation == "cudnn" else "xla"
    )


def attention_weights(
    query: Float[Array, "n l h d"], key: Float[Array, "n l k d"], visible: Visible = Visible()
) -> Float[Array, "n h l l"]:
    """The weight that each query gives to each key: the plain path, for recording."""
    place = jnp.arange(query.shape[1])[None, :]
    bias = _bias(visible, place, place, slice(None), slice(None))
    return jax.nn.softmax(attention_scores(query, key, bias), axis=-1)


def attention_scores(
    query: Float[Array, "n l h d"], key: Float[Array, "n s k d"], bias: Float[Array, "m g l s"] | None = None
) -> Float[Array, "n h l s"]:
    """<q_p, k_s> / sqrt(d) + b_ps before the softmax, h / k query heads to a key head; b is 0 where it is None.

    >>> attention_scores(jnp.full((1, 1, 2, 4), 3.0), jnp.ones((1, 1, 1, 4))).tolist()
    [[[[6.0]], [[6.0]]]]
    """
    (n, length, heads, _), keys = query.shape, key.shape[1]
    logits = _logits(query, key, jnp.zeros((1, 1, length, keys), query.dtype) if bias is None else bias)
    return logits.reshape(n, heads, length, keys)


def momentum(
    value: Float[Array, "n l k d"], eta: float, heads: int, visible: Visible = Visible()
) -> Float[Array, "n l h d"]:
    """sum_{i<t} eta^(t-i) w_i v_i, what momentum attention adds to each head (arXiv 2212.10559).

    By the recursion s_{t+1} = eta (s_t + w_t v_t), s_1 = 0, in logarithmic depth; w is 1, or the weight on the key of
    `visible`. Nothing passes from one packed document to the next.
    """
    wide = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    if visible.key_log_weight is not None:
        wide = wide * jnp.exp(visible.key_log_weight).astype(wide.dtype)[:, :, None, None]
    decay = jnp.full((value.shape[0], value.shape[1] - 1), eta, wide.dtype)
    if visible.segments is not None:
        decay = jnp.where(visible.segments[:, 1:] == visible.segments[:, :-1], decay, 0.0)
    decay = decay[:, :, None, None]

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    _, sums = jax.lax.associative_scan(compose, (decay, decay * wide[:, :-1]), axis=1)
    sums = jnp.concatenate([jnp.zeros_like(wide[:, :1]), sums], axis=1)
    return jnp.repeat(sums, heads // value.shape[2], axis=2).astype(value.dtype)


def _precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    return None if dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST


def _logits(query: Array, key: Array, bias: Array) -> Float[Array, "n k g l s"]:
    """<q, k> / sqrt(d) + bias in float32 at least; head h shares key head h // (H / K)."""
    n, length, heads, size = query.shape
    shared, keys = key.shape[2], key.shape[1]
    # Folding the group into the query's length keeps one batched product a key head instead of repeating the keys.
    grouped = (query / math.sqrt(size)).reshape(n, length, shared, heads // shared, size).transpose(0, 2, 3, 1, 4)
    folded = grouped.reshape(n, shared, -1, size)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum(
        "nkqd,nksd->nkqs",
        folded,
        key.transpose(0, 2, 1, 3),
        precision=_precision(query.dtype),
        preferred_element_type=wide,
    )
    by_group = (1, 1) if bias.shape[1] == 1 else (shared, heads // shared)
    bias = bias.astype(logits.dtype).reshape(bias.shape[0], *by_group, *bias.shape[2:])
    return logits.reshape(n, shared, heads // shared, length, keys) + bias


class _Sums(NamedTuple):
    """sum_s e^(l_s - m) v_s [N, K, G, L, d], sum_s e^(l_s - m), and m, the largest logit, [N, K, G, L]."""

    mixed: Array
    total: Array
    largest: Array

    @property
    def log_total(self) -> Array:
        return self.largest + jnp.log(self.total)


def _sums(query: Array, key: Array, value: Array, bias: Array) -> _Sums:
    logits = _logits(query, key, bias)
    n, shared, group, length, keys = logits.shape
    # The maximum cancels: it is a constant for derivatives of every order.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    powers = jnp.exp(logits - largest[..., None])
    total = jnp.sum(powers, axis=-1)
    mixed = jnp.einsum(
        "nkqs,nksd->nkqd",
        powers.reshape(n, shared, group * length, keys).astype(value.dtype),
        value.transpose(0, 2, 1, 3),
        precision=_precision(value.dtype),
        preferred_element_type=logits.dtype,
    ).reshape(n, shared, group, length, value.shape[-1])
    return _Sums(mixed, total, largest)


def _shared_sums(query: Array, part: Part, positions: Array, visible: Visible) -> _Sums:
    """Of a part's keys for the queries of all rows, which are one row's for that: nothing is repeated by row."""
    n, length = query.shape[:2]
    positions = jnp.broadcast_to(positions, (n, length)).reshape(1, -1)
    bias = _bias(visible._replace(key_log_weight=part.log_weight), positions, part.positions, slice(None), slice(None))
    found = _sums(query.reshape(1, n * length, *query.shape[2:]), part.keys, part.values, bias)
    return _Sums(*(jnp.moveaxis(leaf[0].reshape(*leaf.shape[1:3], n, length, *leaf.shape[4:]), 2, 0) for leaf in found))


def _attend_block(query: Array, key: Array, value: Array, bias: Array) -> Array:
    found = _sums(query, key, value, bias)
    return _by_token((found.mixed / found.total[..., None]).astype(value.dtype))


def _by_token(mixed: Float[Array, "n k g l d"]) -> Float[Array, "n l h d"]:
    n, shared, group, length, size = mixed.shape
    return mixed.transpose(0, 3, 1, 2, 4).reshape(n, length, shared * group, size)


def _bias(visible: Visible, at: Array, keys: Array, queries: slice, seen: slice) -> Float[Array, "m h l s"]:
    """What is added to the logits: log weights and penalties of visible keys, -1e30 for others, [M, 1 or H, L, S].

    at: [M, L] places of the queries. keys: [1, S] those of the keys. queries, seen: where they lie in a row.
    """
    distance = at[:, :, None] - keys[:, None, :]
    allowed = distance >= 0
    if visible.window is not None:
        allowed = allowed & (distance < visible.window)
    if visible.segments is not None:
        allowed = allowed & (visible.segments[:, queries, None] == visible.segments[:, None, seen])
    bias = jnp.where(allowed, 0.0, HIDDEN)[:, None]
    if visible.key_log_weight is not None:
        bias = bias + visible.key_log_weight[:, None, None, seen]
    if visible.slopes is not None:
        bias = bias - distance[:, None] * visible.slopes[None, :, None, None]
    return bias
