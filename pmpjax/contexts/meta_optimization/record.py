"""What a decoder does at the query's last token, layer by layer: attention's output, scores, weights and queries."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pmpjax.contexts.meta_optimization.reading import Reading
from pmpjax.models import Decoder, Parameters, stack_layers
from pmpjax.models.attention import HIDDEN, attention_scores
from pmpjax.models.decoder import RECORDED, Block, Seen
from pmpjax.models.layers import apply
from pmpjax.models.positions import rotate

_CAPTURED = ("query", "key", "output")


class Model(NamedTuple):
    """A decoder with scanned layers, and its parameters."""

    decoder: Decoder
    params: Parameters


class Record(NamedTuple):
    """Of the query's last token in each of N rows.

    Fields:
        output: [layers, N, width] attention's output behind its last product, before the residual sum.
        scores: [layers, N, H, T] <q, k> / sqrt(d) before the softmax over the query's own tokens; 0 in front where a
            query is shorter.
        shown: [layers, N, M] the same for the tokens of the demonstrations, summed over heads.
        share: [layers, N] the weight that attention gives to the demonstrations and their separators, mean over heads.
        query: [layers, N, H d] the query vector before it is rotated.
    """

    output: Any
    scores: Any
    shown: Any
    share: Any
    query: Any


def scanned(decoder: Decoder, params: Parameters) -> Model:
    """The same model with its layers stacked, which all of this room's functions read."""
    if decoder.config.scan_layers:
        return Model(decoder, params)
    return Model(Decoder(dataclasses.replace(decoder.config, scan_layers=True)), stack_layers(params))


def record(
    model: Model,
    reading: Reading,
    *,
    hide: bool = False,
    batch: int = 8,
    done: Callable[[int], None] = lambda rows: None,
) -> Record:
    """Reads every row once.

    Args:
        hide: no token sees the demonstrations, and all keep their positions: zero-shot at the positions of the
            in-context run. Positions that enter by distances alone then differ only between prefix and query.
        batch: rows read at once.
        done: told of the rows of each batch.
    """
    rows = len(reading.tokens)
    weight = jnp.where(jnp.asarray(reading.context), HIDDEN if hide else 0.0, 0.0)
    parts = []
    for begin in range(0, rows, batch):
        # The last batch is filled with its own first row, so that one program serves all.
        index = np.resize(np.arange(begin, min(begin + batch, rows)), min(batch, rows))
        read = _read(model.decoder, model.params, _rows(reading, index), weight)
        parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:, : min(batch, rows - begin)], read))
        done(min(batch, rows - begin))
    return Record(*(np.concatenate(leaves, axis=1) for leaves in zip(*parts, strict=True)))


class _Rows(NamedTuple):
    tokens: Any
    last: Any
    asked: Any
    shown: Any
    context: Any


def _rows(reading: Reading, index: np.ndarray) -> _Rows:
    return _Rows(reading.tokens[index], reading.last[index], reading.asked[index], reading.shown, reading.context)


@functools.partial(jax.jit, static_argnames="decoder")
def _read(decoder: Decoder, params: Parameters, rows: _Rows, weight: Array) -> Record:
    n, length = rows.tokens.shape
    positions = jnp.arange(length)[None, :]
    key_log_weight = jnp.broadcast_to(weight[None, :], (n, length))
    each = jnp.arange(n)

    def layer(h: Array, params: Parameters) -> tuple[Array, Record]:
        h, found = captured(decoder, params, h, Seen(positions, None, key_log_weight))
        scores = attention_scores(found.rotated_query[each, rows.last][:, None], found.rotated_key)[:, :, 0]
        asked = jnp.take_along_axis(scores, jnp.maximum(rows.asked, 0)[:, None, :], axis=2)
        weights = found.weights[each, :, rows.last]
        return h, Record(
            found.output[each, rows.last],
            jnp.where(rows.asked[:, None, :] >= 0, asked, 0.0),
            jnp.sum(scores, axis=1)[:, rows.shown],
            jnp.mean(jnp.sum(jnp.where(rows.context[None, None, :], weights, 0.0), axis=2), axis=1),
            found.query[each, rows.last],
        )

    return jax.lax.scan(layer, embedded(decoder, params, rows.tokens), params["trunk"]["layers"])[1]


class Captured(NamedTuple):
    """Of one block: the vectors of attention [N, L, heads, d], plain queries [N, L, H d], output [N, L, width], and
    weights [N, H, L, L]."""

    query: Array
    rotated_query: Array
    rotated_key: Array
    output: Array
    weights: Array


def captured(decoder: Decoder, layer: Parameters, h: Float[Array, "n l d"], seen: Seen) -> tuple[Array, Captured]:
    """The block's output and what its attention did, from the decoder's own block."""
    config = decoder.config
    outputs, variables = Block(config).apply(
        {"params": layer}, h, seen, None, capture_intermediates=lambda module, _: module.name in _CAPTURED
    )
    found: Any = variables[RECORDED]
    query, key, output = (found[name]["__call__"][0] for name in _CAPTURED)
    heads = query.reshape(*query.shape[:2], config.heads, config.size)
    keys = key.reshape(*key.shape[:2], config.key_value_heads, config.size)
    if config.positions in ("rotary", "xpos"):
        decay = int(config.positions == "xpos")
        heads = rotate(heads, seen.positions, config.rope_base, decay)
        keys = rotate(keys, seen.positions, config.rope_base, -decay)
    return outputs[0], Captured(query, heads, keys, output, found["attention"][0])


def embedded(decoder: Decoder, params: Parameters, tokens: Int[Array, "n l"]) -> Float[Array, "n l d"]:
    """What the first block reads."""
    positions = jnp.arange(tokens.shape[1])[None, :]
    return apply(decoder, params, jnp.asarray(tokens), positions, method=lambda module, *at: module.trunk.embed(*at))


def queries(decoder: Decoder, params: Parameters, tokens: Int[Array, "n l"]) -> Float[Array, "layers n l f"]:
    """The query vectors of every token before they are rotated."""
    seen = Seen(jnp.arange(tokens.shape[1])[None, :])

    def layer(h: Array, params: Parameters) -> tuple[Array, Array]:
        h, found = captured(decoder, params, h, seen)
        return h, found.query

    return jax.lax.scan(layer, embedded(decoder, params, tokens), params["trunk"]["layers"])[1]
