"""What is recorded at the last token, against attention written out in numpy and against the decoder itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.contexts.meta_optimization.reading import in_context, zero_shot
from pmpjax.contexts.meta_optimization.record import queries, record, scanned
from pmpjax.models import initialise, recorded
from pmpjax.models.attention import HIDDEN
from pmpjax.models.positions import rotate
from tests.contexts.meta_optimization.small import DEMONSTRATIONS, LAYOUT, OPTIONS, QUESTIONS, model, plain


def readings():
    shown = in_context(LAYOUT, DEMONSTRATIONS, QUESTIONS.queries)
    return shown, zero_shot(LAYOUT, shown)


def normed(config, params, h):
    h = np.asarray(h)
    if config.norm == "layer":
        h = h - h.mean(-1, keepdims=True)
    h = h / np.sqrt((h * h).mean(-1, keepdims=True) + config.norm_epsilon) * np.asarray(params["scale"])
    return h + np.asarray(params["bias"]) if config.norm == "layer" else h


def product(params, x):
    y = x @ np.asarray(params["kernel"])
    return y + np.asarray(params["bias"]) if "bias" in params else y


@pytest.mark.parametrize("name", OPTIONS)
def test_the_record_is_attention_written_out(float64, name):
    decoder, params = plain(name)
    config, (shown, _) = decoder.config, readings()
    found = record(model(name), shown, batch=2)
    blocks = jax.jit(lambda tokens: recorded(decoder, params, tokens).blocks)(shown.tokens)
    place = jnp.arange(shown.tokens.shape[1])[None]
    tokens = jnp.asarray(shown.tokens)
    start = decoder.apply({"params": params}, tokens, place, method=lambda module, *at: module.trunk.embed(*at))
    stream = [np.asarray(start), *np.asarray(blocks)]
    for index in range(config.layers):
        layer = params["trunk"][f"layers_{index}"]
        z = normed(config, layer["attention_norm"], stream[index])
        parts = {}
        for part, heads in (("query", 4), ("key", config.key_value_heads), ("value", config.key_value_heads)):
            parts[part] = product(layer[part], z).reshape(*z.shape[:2], heads, 4)
        flat = parts["query"].reshape(*z.shape[:2], 16)
        if name == "llama":
            for part in ("query", "key"):
                parts[part] = np.asarray(rotate(jnp.asarray(parts[part]), place, config.rope_base))
        for n, last in enumerate(shown.last):
            scores, mixed = [], []
            for head in range(4):
                group = head // (4 // config.key_value_heads)
                row = parts["key"][n, : last + 1, group] @ parts["query"][n, last, head] / 2.0
                scores.append(row)
                mixed.append(np.exp(row) / np.exp(row).sum() @ parts["value"][n, : last + 1, group])
            scores, own = np.stack(scores), shown.asked[n] >= 0
            weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            share = weights[:, shown.context[: last + 1]].sum(axis=1).mean()
            output = product(layer["output"], np.concatenate(mixed))
            np.testing.assert_allclose(found.output[index, n], output, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.scores[index, n][:, own], scores[:, shown.begin :], rtol=0, atol=1e-10)
            assert (found.scores[index, n][:, ~own] == 0).all()
            np.testing.assert_allclose(found.shown[index, n], scores.sum(0)[shown.shown], rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.share[index, n], share, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.query[index, n], flat[n, last], rtol=0, atol=1e-10)
    every = jax.jit(queries, static_argnums=0)(*model(name), tokens)
    np.testing.assert_allclose(
        every[:, np.arange(5), shown.last], found.query, rtol=0, atol=1e-10, err_msg="queries of every token"
    )


def test_hidden_demonstrations_leave_the_positions_and_nothing_else(float64, name="gpt2"):
    shown, asked = readings()
    hidden, zero = record(model(name), shown, hide=True), record(model(name), asked)
    assert np.abs(hidden.share).max() == 0 and np.abs(zero.share).max() == 0 and zero.shown.shape == (2, 5, 0)
    assert np.abs(hidden.output - zero.output).max() > 1e-3  # the query stands elsewhere than without a context
    decoder, params = plain(name)
    weight = jnp.broadcast_to(jnp.where(jnp.asarray(shown.context), HIDDEN, 0.0)[None], shown.tokens.shape)
    found = jax.jit(lambda tokens: recorded(decoder, params, tokens, key_log_weight=weight).attention)(shown.tokens)
    np.testing.assert_allclose(
        np.take_along_axis(found[0, 1, :, shown.last[1]], shown.asked[1][None], axis=1),
        np.exp(hidden.scores[0, 1])
        / (np.exp(hidden.scores[0, 1]) / np.asarray(found)[0, 1, :, shown.last[1]][:, shown.asked[1]]),
        rtol=1e-9,
    )


def test_with_rotary_positions_and_no_prefix_a_shift_changes_nothing(float64):
    layout = LAYOUT._replace(form=LAYOUT.form._replace(prefix=()))
    shown = in_context(layout, DEMONSTRATIONS, QUESTIONS.queries)
    hidden, zero = record(model("llama"), shown, hide=True), record(model("llama"), zero_shot(layout, shown))
    np.testing.assert_allclose(hidden.output, zero.output, rtol=0, atol=1e-10)


def test_batches_change_nothing_and_are_counted(float64):
    shown, _ = readings()
    counts: list[int] = []
    one, other = record(model("llama"), shown, batch=5), record(model("llama"), shown, batch=3, done=counts.append)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert counts == [3, 2]


def test_untrained_weights_have_the_same_shapes():
    decoder, params = model("llama")
    untrained = scanned(decoder, initialise(decoder, jax.random.key(5), jnp.zeros((1, 4), jnp.int32)))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, params, untrained.params)
    assert all(jax.tree.leaves(same)) and untrained.decoder is decoder
    shown, _ = readings()
    found = [record(one, shown) for one in (model("llama"), untrained)]
    assert [leaf.shape for leaf in found[0]] == [leaf.shape for leaf in found[1]]
