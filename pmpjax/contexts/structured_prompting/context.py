"""Groups of demonstrations encoded once, each by itself, and attached before any query."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pmpjax.contexts.demonstrations import token_log_weights
from pmpjax.contexts.structured_prompting.groups import Groups
from pmpjax.models import Attached, Decoder, DecoderConfig, Parameters, empty_cache
from pmpjax.models.attention import HIDDEN, Part
from pmpjax.models.layers import apply
from pmpjax.models.positions import rotate

_ABSOLUTE = ("learned", "sinusoidal")


class Context(NamedTuple):
    """Keys, before any rotation, and values of M groups and of the prefix before them.

    Fields:
        keys, values: [layers, M, L, K, d], padded behind.
        lengths: [M] int32, tokens of each group.
        prefix_keys, prefix_values: [layers, P, K, d]; P may be 0.
        length: scalar int32; all groups end at position P + length - 1, and a query begins at P + length.
    """

    keys: Any
    values: Any
    lengths: Any
    prefix_keys: Any
    prefix_values: Any
    length: Any

    @property
    def groups(self) -> int:
        """M."""
        return self.lengths.shape[0]

    def alone(self) -> "list[Context]":
        """Each group as a context of its own, at the positions that it has among the others."""
        pairs = [(slice(None), slice(group, group + 1)) for group in range(self.groups)]
        return [
            self._replace(keys=self.keys[pair], values=self.values[pair], lengths=self.lengths[pair[1]])
            for pair in pairs
        ]


@dataclasses.dataclass(frozen=True)
class ContextAttention:
    """How a query attends to a context.

    Attributes:
        bos_scaled: whether the prefix, such as the token of the begin, is weighted like the query's own tokens; False
            is the rule of the paper's fairseq code, which leaves it at weight 1.
        own_log_weight: added to the logits of the query's own keys; None: log M, 0: nothing.
        temperature: T of the context's logits <q, k> / (T sqrt(d)); below 1 sharpens.
        scale: S; the sum of the context's exponentials is raised to the power S T.
    """

    bos_scaled: bool = True
    own_log_weight: float | None = None
    temperature: float = 1.0
    scale: float = 1.0

    def __post_init__(self):
        for name in ("temperature", "scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number above 0; 1 changes nothing")
        if self.own_log_weight is not None and not math.isfinite(self.own_log_weight):
            raise ValueError(f"own_log_weight is {self.own_log_weight}, expected a number, or None for log M")


def build_context(
    decoder: Decoder,
    params: Parameters,
    groups: Groups,
    *,
    length: int | None = None,
    batch: int = 8,
    encoded: Callable[[int], None] = lambda groups: None,
) -> Context:
    """Keys and values of every group, read behind the prefix and blind to the other groups.

    Right alignment: group g of L_g tokens stands at the positions P + length - L_g, ..., P + length - 1, whatever the
    group, so that a query follows all of them (arXiv 2212.06713). Time is linear in the number of groups.

    Args:
        length: where groups end; None: the longest group. Contexts that are to be joined need one length where
            positions are learned or sinusoidal.
        batch: groups encoded at once; memory beyond the context itself is theirs.
        encoded: told of the number of groups that are done, after each batch.

    Raises:
        ValueError: a decoder with momentum, ids outside the vocabulary, `length` below the longest group, or a context
            that fills the learned positions.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.contexts import Format, attach, build_groups
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> from pmpjax.scoring.options import Item, option_log_probabilities
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> form = Format(lambda text: [int(letter) for letter in text], window=8)
    >>> context = build_context(decoder, params, build_groups(form, ["123", "4567", "89"], size=1))
    >>> context.keys.shape, context.lengths.tolist()
    ((1, 3, 4, 1, 4), [3, 4, 2])
    >>> items = [Item([1, 2], [[3], [4]])]
    >>> option_log_probabilities(decoder, params, items, attached=attach(decoder, context)).shape
    (1, 2)
    """
    end = int(groups.lengths.max()) if length is None else length
    _check_encoding(decoder.config, groups, end)
    config, (count, width), begin = decoder.config, groups.tokens.shape, len(groups.prefix)
    if begin:
        alone = Attached((), jnp.zeros(1, jnp.int32), jnp.zeros(()))
        keys, values = _encode(decoder, params, jnp.asarray(groups.prefix)[None], alone)
        prefix = keys[:, 0], values[:, 0]
        before = (_prefix_part(config, *prefix),)
    else:
        shape = (config.layers, 0, config.key_value_heads, config.size)
        empty = np.zeros(shape, params["trunk"]["embedding"].dtype)
        prefix = empty, empty
        before = ()
    found: list[tuple[Array, Array]] = []
    batch = min(batch, count)
    for first in range(0, count, batch):
        rows = np.minimum(np.arange(first, first + batch), count - 1)  # the last batch repeats the last group
        starts = jnp.asarray(begin + end - groups.lengths[rows], jnp.int32)
        part = _encode(decoder, params, jnp.asarray(groups.tokens[rows]), Attached(before, starts, jnp.zeros(())))
        found.append((part[0][:, : count - first], part[1][:, : count - first]))
        encoded(min(first + batch, count))
    keys, values = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    assert keys.shape[2] == width
    return Context(keys, values, np.asarray(groups.lengths, np.int32), *prefix, np.int32(end))


def attach(
    decoder: Decoder,
    context: Context,
    log_weights: Float[Array, " m"] | None = None,
    attention: ContextAttention = ContextAttention(),
) -> Attached:
    """What `option_log_probabilities`, `generate` and a cache take as `attached`: keys rotated for where they stand.

    A query's token i gives the key j of group g and its own key j the weights (without an index: of the prefix)

        a_ij ~ exp(s_ij + u_g),   a_ij ~ M exp(s_ij),

    s the logits and u the logarithms of the groups' weights; M exp(s) also for tokens that are written later. At
    temperature T and scale S the groups' sum Z is of exp(s_ij / T + u_g) and counts as Z^(S T); a penalty on the
    distance is not divided. One group is the ordinary context.

    Args:
        log_weights: u; None: zeros.
        attention: the rule for the prefix, the weight of own tokens, temperature and scale.

    Source: arXiv 2212.06713 (groups, M); arXiv 2502.05431 (shared prefix, temperature, scale; as in its code).
    """
    config, count = decoder.config, context.groups
    if log_weights is not None and log_weights.shape != (count,):
        raise ValueError(f"log_weights have shape {log_weights.shape}, expected ({count},): one a group")
    begin, longest = context.prefix_keys.shape[1], context.keys.shape[2]
    lengths = jnp.asarray(context.lengths)
    place = jnp.arange(longest)[None, :]
    positions = begin + jnp.asarray(context.length) - lengths[:, None] + place
    there = (place < lengths[:, None]).reshape(1, -1)
    dtype = jnp.promote_types(context.keys.dtype, jnp.float32)
    weights = jnp.zeros(count, dtype) if log_weights is None else jnp.asarray(log_weights, dtype)
    owner = jnp.repeat(jnp.arange(count), longest, total_repeat_length=count * longest).reshape(1, -1)
    part = Part(
        _flat(_rotated(config, context.keys, positions) / attention.temperature),
        _flat(jnp.asarray(context.values)),
        positions.reshape(1, -1),
        jnp.where(there, token_log_weights(owner, weights), HIDDEN),
        jnp.asarray(attention.scale * attention.temperature, dtype),
    )
    own = math.log(count) if attention.own_log_weight is None else attention.own_log_weight
    before = ()
    if begin:
        weight = own if attention.bos_scaled else 0.0
        before = (_prefix_part(config, context.prefix_keys, context.prefix_values, weight),)
    first = jnp.full(1, begin + jnp.asarray(context.length), jnp.int32)
    return Attached((*before, part), first, jnp.asarray(own, dtype))


def join_contexts(contexts: Sequence[Context], config: DecoderConfig) -> Context:
    """The groups of all: cached ones and such that were retrieved for one query, say.

    Exact where no prefix stands before the groups, or all were built with the same `length`; else the distance between
    prefix and group is that of when a group was encoded.

    Raises ValueError: no context, prefixes that differ, or positions that are part of what was encoded (learned,
    sinusoidal) and groups that end at different ones.
    """
    if not contexts:
        raise ValueError("no contexts to join; give at least one")
    first = contexts[0]
    for number, other in enumerate(contexts):
        same = first.prefix_keys.shape == other.prefix_keys.shape and first.prefix_values.dtype == other.values.dtype
        if not same or not np.array_equal(first.prefix_keys, other.prefix_keys):
            raise ValueError(f"context {number} has another prefix than context 0; build both behind one prefix")
    ends = [int(context.length) for context in contexts]
    if config.positions in _ABSOLUTE and len({*ends}) > 1:
        raise ValueError(
            f"the contexts end at {ends}, and {config.positions} positions are part of what was encoded; build all "
            f"with length={max(ends)}"
        )
    longest = max(context.keys.shape[2] for context in contexts)

    def joined(name: str) -> Array:
        parts = [jnp.asarray(getattr(context, name)) for context in contexts]
        pads = [((0, 0), (0, 0), (0, longest - part.shape[2]), (0, 0), (0, 0)) for part in parts]
        return jnp.concatenate([jnp.pad(part, pad) for part, pad in zip(parts, pads, strict=True)], axis=1)

    lengths = np.concatenate([np.asarray(context.lengths) for context in contexts])
    return first._replace(keys=joined("keys"), values=joined("values"), lengths=lengths, length=np.int32(max(ends)))


@functools.partial(jax.jit, static_argnames="decoder")
def _encode(decoder: Decoder, params: Parameters, tokens: Array, attached: Attached) -> tuple[Array, Array]:
    """Keys before rotation and values, [layers, N, L, K, d]."""
    config = decoder.config
    rows, length = tokens.shape
    cache = empty_cache(config, rows, length, attached)
    _, variables = apply(
        decoder,
        params,
        tokens,
        cache=cache,
        method="hidden",
        capture_intermediates=lambda module, _: module.name in ("key", "value"),
    )
    trunk: Any = variables["intermediates"]["trunk"]

    def of(name: str) -> Array:
        if config.scan_layers:
            found = trunk["layers"][name]["__call__"][0]
        else:
            found = jnp.stack([trunk[f"layers_{index}"][name]["__call__"][0] for index in range(config.layers)])
        return found.reshape(*found.shape[:3], config.key_value_heads, config.size)

    return of("key"), of("value")


def _rotated(config: DecoderConfig, keys: Any, positions: Array) -> Array:
    """keys: [layers, N, L, K, d]; positions: [N, L]."""
    keys = jnp.asarray(keys)
    if config.positions not in ("rotary", "xpos"):
        return keys
    decay = -int(config.positions == "xpos")
    return jax.vmap(lambda layer: rotate(layer, positions, config.rope_base, decay))(keys)


def _prefix_part(config: DecoderConfig, keys: Any, values: Any, log_weight: float = 0.0) -> Part:
    dtype = jnp.promote_types(keys.dtype, jnp.float32)
    positions = jnp.arange(keys.shape[1])[None, :]
    return Part(
        _rotated(config, keys[:, None], positions),
        jnp.asarray(values)[:, None],
        positions,
        jnp.full(positions.shape, log_weight, dtype),
        jnp.ones((), dtype),
    )


def _flat(parts: Array) -> Array:
    """[layers, M, L, K, d] -> [layers, 1, M L, K, d]."""
    return parts.reshape(parts.shape[0], 1, -1, *parts.shape[3:])


def _check_encoding(config: DecoderConfig, groups: Groups, end: int) -> None:
    if config.momentum:
        raise ValueError(f"the decoder has momentum {config.momentum}, which no cache holds; use one without")
    longest = int(groups.lengths.max())
    if end < longest:
        raise ValueError(f"length is {end}, and the longest group has {longest} tokens; give at least that")
    ids = np.concatenate([groups.prefix, groups.tokens.reshape(-1)])
    wrong = ids[(ids < 0) | (ids >= config.vocabulary)]
    if len(wrong):
        raise ValueError(
            f"the groups hold the id {wrong[0]}; the model's are 0 to {config.vocabulary - 1}: use its tokenizer"
        )
    if config.positions == "learned" and len(groups.prefix) + end >= config.max_length:
        raise ValueError(
            f"prefix and groups end at position {len(groups.prefix) + end}, and the model has {config.max_length}: no "
            "room is left for a query; give shorter groups"
        )
