"""Contexts of groups against the plain decoder on whole rows, and against one softmax over all keys."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.contexts import ContextAttention, attach, build_context, join_contexts
from pmpjax.contexts.structured_prompting.groups import Groups
from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, empty_cache, generate, initialise
from pmpjax.models.layers import apply
from pmpjax.scoring.options import Item, OptionScoring, option_log_probabilities

BASE = DecoderConfig(vocabulary=19, width=16, layers=2, heads=4, key_value_heads=2, hidden=12)
OPTIONS = {
    "rotary": {},
    "scanned": {"scan_layers": True},
    "learned": {"positions": "learned", "max_length": 40, "norm": "layer", "feed_forward": "gelu", "biases": True},
    "alibi": {"positions": "alibi"},
    "xpos": {"positions": "xpos", "scan_layers": True},
    "sinusoidal": {"positions": "sinusoidal"},
    "window": {"window": 6},
}
QUERY = np.array([[5, 6, 7, 1], [8, 2, 3, 9]], np.int32)
A, B, C = [3, 1, 4, 1, 5], [9, 2, 6], [11, 12, 13, 14]


@functools.cache
def model(name):
    decoder = Decoder(dataclasses.replace(BASE, **OPTIONS[name]))
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    draw = np.random.default_rng(1)
    # As numpy has them: float64 in tests that ask for it, float32 in the others.
    return decoder, jax.tree.map(lambda leaf: draw.normal(size=leaf.shape) * 0.5, params)


def groups(*rows, prefix=(17, 18)):
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    lengths = np.asarray([len(row) for row in rows], np.int32)
    return Groups(tokens, lengths, np.asarray(prefix, np.int32), tuple((i,) for i in range(len(rows))))


@functools.partial(jax.jit, static_argnames="decoder")
def read(decoder, params, attached, query):
    cache = empty_cache(decoder.config, *query.shape, attached)
    return apply(decoder, params, query, cache=cache)[0]


@functools.partial(jax.jit, static_argnames="decoder")
def plain(decoder, params, tokens):
    return apply(decoder, params, tokens)


def answers(decoder, params, context, query=QUERY, **options):
    return np.asarray(read(decoder, params, attach(decoder, context, **options), jnp.asarray(query)))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(("name", "prefix"), [("rotary", ()), *((name, (17, 18)) for name in OPTIONS)])
def test_one_group_is_the_ordinary_context(float64, name, prefix):
    decoder, params = model(name)
    found = answers(decoder, params, build_context(decoder, params, groups(A, prefix=prefix)))
    row = np.broadcast_to(np.array([*prefix, *A], np.int32), (2, len(prefix) + len(A)))
    whole = jnp.asarray(np.concatenate([row, QUERY], axis=1))
    close(found, np.asarray(plain(decoder, params, whole))[:, row.shape[1] :])


@pytest.mark.parametrize("name", ["rotary", "learned", "alibi", "window"])
def test_equal_groups_are_one_and_their_order_does_not_matter(float64, name):
    decoder, params = model(name)
    one = answers(decoder, params, build_context(decoder, params, groups(A)))
    context = build_context(decoder, params, groups(A, A, A), batch=2)
    close(answers(decoder, params, context), one)
    # The paper's code leaves the first token at weight 1: then equal groups are another context.
    fairseq = answers(decoder, params, context, attention=ContextAttention(bos_scaled=False))
    assert np.abs(fairseq - one).max() > 1e-4 or name == "window"
    several = answers(decoder, params, build_context(decoder, params, groups(A, B, C)))
    close(answers(decoder, params, build_context(decoder, params, groups(C, A, B), batch=2)), several)
    assert np.abs(several - one).max() > 1e-3


def reference(decoder, params, rows, query, rule):
    """One block's attention by one softmax over all keys, in numpy: layer by layer the same as for a whole row."""
    config = decoder.config
    prefix, attention, log_weights, copies = rule
    longest = max(map(len, rows))
    trunk = params["trunk"]

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_epsilon) * np.asarray(scale)

    def rotated(x, positions):
        half = x.shape[-1] // 2
        angle = np.asarray(positions)[:, None] * config.rope_base ** (-np.arange(half) / half)
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([x[..., :half] * c - x[..., half:] * s, x[..., half:] * c + x[..., :half] * s], -1)

    def step(layer, h, positions, before):
        z = norm(h, layer["attention_norm"]["scale"])
        size = config.size
        q, k, v = (
            (z @ np.asarray(layer[name]["kernel"])).reshape(len(h), -1, size) for name in ("query", "key", "value")
        )
        q, k = rotated(q, positions), rotated(k, positions)
        group = config.heads // config.key_value_heads
        out = np.zeros((len(h), config.heads, size))
        for head in range(config.heads):
            for i in range(len(h)):
                own_times, sets = before["own"], []
                for keys, values, weight, temperature, power in before["sets"]:
                    sets.append((keys[:, head // group], values[:, head // group], weight, temperature, power))
                own_k = np.repeat(k[: i + 1, head // group], own_times, axis=0)
                own_v = np.repeat(v[: i + 1, head // group], own_times, axis=0)
                sets.append((own_k, own_v, np.zeros(len(own_k)), 1.0, 1.0))
                top, bottom = np.zeros(size), 0.0
                for keys, values, weight, temperature, power in sets:
                    e = np.exp(keys @ q[i, head] / np.sqrt(size) / temperature + weight)
                    if len(e):
                        top, bottom = top + e.sum() ** power * (e @ values) / e.sum(), bottom + e.sum() ** power
                out[i, head] = top / bottom
        h = h + out.reshape(len(h), -1) @ np.asarray(layer["output"]["kernel"])
        z = norm(h, layer["feed_forward_norm"]["scale"])
        gate, up = (z @ np.asarray(layer[name]["kernel"]) for name in ("gate", "up"))
        return h + (gate / (1 + np.exp(-gate)) * up) @ np.asarray(layer["down"]["kernel"]), k, v

    embedding = np.asarray(trunk["embedding"])
    nothing = {"own": 1, "sets": []}
    streams = {"prefix": embedding[list(prefix)], "query": embedding[query]}
    streams |= {number: embedding[list(row)] for number, row in enumerate(rows)}
    for index in range(config.layers):
        layer = trunk[f"layers_{index}"]
        streams["prefix"], pk, pv = step(layer, streams["prefix"], np.arange(len(prefix)), nothing)
        shared = (pk, pv, np.zeros(len(pk)), 1.0, 1.0)
        keys, values, weights = [], [], []
        for number, row in enumerate(rows):
            at = len(prefix) + longest - len(row) + np.arange(len(row))
            streams[number], k, v = step(layer, streams[number], at, {"own": 1, "sets": [shared]})
            keys.append(k), values.append(v), weights.append(np.full(len(row), log_weights[number]))
        times = copies if attention.bos_scaled else 1
        demonstrations = tuple(map(np.concatenate, (keys, values, weights)))
        power = attention.scale * attention.temperature
        sets = [(np.repeat(pk, times, 0), np.repeat(pv, times, 0), np.zeros(times * len(pk)), 1.0, 1.0)]
        sets.append((*demonstrations, attention.temperature, power))
        at = len(prefix) + longest + np.arange(len(query))
        streams["query"], _, _ = step(layer, streams["query"], at, {"own": copies, "sets": sets})
    return norm(streams["query"], trunk["norm"]["scale"]) @ embedding.T


RULES = {
    "log M is M-fold repetition": (ContextAttention(), None, 3),
    "fairseq": (ContextAttention(bos_scaled=False), None, 3),
    "no log M": (ContextAttention(own_log_weight=0.0), None, 1),
    "weights": (ContextAttention(), [0.4, -0.7, 0.1], 3),
    "temperature and scale": (ContextAttention(temperature=0.8, scale=0.9), [0.4, -0.7, 0.1], 3),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_one_softmax_over_repeated_keys(float64, rule):
    attention, weights, copies = RULES[rule]
    decoder, params = model("rotary")
    context = build_context(decoder, params, groups(A, B, C))
    given = None if weights is None else jnp.asarray(weights)
    found = answers(decoder, params, context, log_weights=given, attention=attention)
    for number in range(2):
        settings = ((17, 18), attention, weights or [0.0] * 3, copies)
        close(found[number], reference(decoder, params, [A, B, C], QUERY[number], settings))


@pytest.mark.parametrize("name", ["alibi", "scanned"])
def test_greedy_text_with_the_cache_is_that_of_recomputation(float64, name):
    decoder, params = model(name)
    attached = attach(decoder, build_context(decoder, params, groups(A, B, C)))
    written = np.asarray(generate(decoder, params, Rows(QUERY[:, :3], np.array([3, 2])), 5, attached=attached))
    for row, length, tokens in zip(QUERY, (3, 2), written, strict=True):
        text = row[:length].tolist()
        for token in tokens.tolist():
            logits = read(decoder, params, attached, jnp.asarray([text + [0] * (8 - len(text))], jnp.int32))
            assert token == int(jnp.argmax(logits[0, len(text) - 1]))
            text.append(token)


@pytest.mark.slow
def test_options_behind_a_context_are_those_of_each_row_alone():
    decoder, params = model("rotary")
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    attached = attach(decoder, build_context(decoder, params, groups(A, B, C)))
    items = [Item([5, 6, 7], [[1], [2, 3]]), Item([8], [[2], [4, 4]]), Item([1, 2, 3, 4], [[9], [5, 1]])]
    for prefix in ([], [12]):
        config = OptionScoring(batch=2)
        found = option_log_probabilities(decoder, params, items, config, prefix=prefix, attached=attached)
        for item, scores in zip(items, found, strict=True):
            for option, score in zip(item.options, scores, strict=True):
                row = [*prefix, *item.prompt, *option]
                padded = jnp.asarray([row + [0] * (8 - len(row))], jnp.int32)
                logits = np.asarray(jax.nn.log_softmax(read(decoder, params, attached, padded)[0]))
                at = range(len(row) - len(option) - 1, len(row) - 1)
                np.testing.assert_allclose(score, np.mean([logits[i, row[i + 1]] for i in at]), atol=2e-5)


def test_cached_groups_and_retrieved_ones_are_one_context(float64):
    decoder, params = model("rotary")
    whole = build_context(decoder, params, groups(A, B, C))
    parts = [build_context(decoder, params, groups(*rows), length=5) for rows in ((A, B), (C,))]
    joined = join_contexts(parts, decoder.config)
    assert joined.groups == 3
    close(answers(decoder, params, joined), answers(decoder, params, whole))
    bare = [build_context(decoder, params, groups(*rows, prefix=())) for rows in ((A, B), (C,))]
    whole = build_context(decoder, params, groups(A, B, C, prefix=()))
    close(answers(decoder, params, join_contexts(bare, decoder.config)), answers(decoder, params, whole))
    with pytest.raises(ValueError, match="context 1 has another prefix"):
        join_contexts([parts[0], bare[1]], decoder.config)
    learned, params = model("learned")
    apart = [build_context(learned, params, groups(row)) for row in (A, B)]
    with pytest.raises(ValueError, match=r"end at \[5, 3\], and learned positions .* length=5"):
        join_contexts(apart, learned.config)


def test_what_cannot_be_read_is_an_error(float64):
    decoder, params = model("learned")
    for given, options, words in (
        (groups([19]), {}, "id 19"),
        (groups(A), {"length": 4}, "length is 4, and the longest group has 5"),
        (groups([1] * 38), {}, "end at position 40, and the model has 40"),
    ):
        with pytest.raises(ValueError, match=words):
            build_context(decoder, params, given, **options)
    context = build_context(decoder, params, groups([1] * 30))
    with pytest.raises(ValueError, match="behind 32 attached positions"):
        generate(decoder, params, Rows(QUERY, np.array([4, 4])), 5, attached=attach(decoder, context))
    with pytest.raises(ValueError, match="has 41 tokens with what stands before it"):
        option_log_probabilities(decoder, params, [Item([1] * 9, [[1]])], attached=attach(decoder, context))
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(1,\)"):
        attach(decoder, context, jnp.zeros(2))
    for wrong, words in (({"temperature": 0.0}, "temperature is 0"), ({"own_log_weight": float("nan")}, "nan")):
        with pytest.raises(ValueError, match=words):
            ContextAttention(**wrong)
    momentum = Decoder(dataclasses.replace(BASE, momentum=0.5))
    with pytest.raises(ValueError, match="momentum"):
        build_context(momentum, params, groups(A))
    with pytest.raises(ValueError, match="no contexts"):
        join_contexts([], decoder.config)
