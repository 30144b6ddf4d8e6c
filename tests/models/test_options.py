"""Every option of the decoder against what defines it: windows, packing, caches, positions, norms, scans, remat."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import Rows
from pmpjax.models import (
    PRESETS,
    Decoder,
    DecoderConfig,
    empty_cache,
    example_losses,
    generate,
    initialise,
    mean_token_loss,
    parameter_count,
    preset,
    recorded,
)
from pmpjax.models.attention import (
    HIDDEN,
    Visible,
    attend,
    attend_by_library,
    attend_cached,
    attention_weights,
    momentum,
)
from pmpjax.models.huggingface import architecture
from pmpjax.models.positions import rotate, slopes

BASE = DecoderConfig(vocabulary=29, width=16, layers=2, heads=4, key_value_heads=2, hidden=20, attention_block=3)

OPTIONS = {
    "mistral": {"window": 4, "tied_embeddings": False, "head_size": 6},
    "gpt2": {
        "norm": "layer",
        "feed_forward": "gelu_tanh",
        "biases": True,
        "positions": "learned",
        "max_length": 32,
        "key_value_heads": 4,
    },
    "magneto": {"norm": "layer", "sub_norm": True, "feed_forward": "gelu", "biases": True, "positions": "xpos"},
    "alibi": {"positions": "alibi", "sub_norm": True},
    "sinusoidal": {"positions": "sinusoidal", "remat": "full"},
    "unordered": {"positions": "none", "remat": "products"},
    "scanned": {"scan_layers": True, "remat": "full", "loss_chunk": 4},
}


def noisy(config):
    """Parameters overwritten by noise, so that nothing hides in zeros and ones."""
    decoder = Decoder(config)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    leaves, treedef = jax.tree.flatten(params)
    generator = np.random.default_rng(3)
    return decoder, treedef.unflatten(
        [jnp.asarray(generator.normal(size=leaf.shape) * 0.3, leaf.dtype) for leaf in leaves]
    )


@functools.cache
def built(name):
    return noisy(dataclasses.replace(BASE, **OPTIONS[name]))


def tokens(n=2, length=10, seed=0):
    return jax.random.randint(jax.random.key(seed), (n, length), 0, BASE.vocabulary)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_written_token_by_token_is_what_is_read_at_once(name):
    decoder, params = built(name)
    inputs = tokens()
    whole = jax.jit(decoder.apply)({"params": params}, inputs)
    apply = jax.jit(lambda x, cache: decoder.apply({"params": params}, x, cache=cache))
    cache, parts = empty_cache(decoder.config, 2, 12), []
    for begin, end in ((0, 4), (4, 5), (5, 6), (6, 10)):
        logits, cache = apply(inputs[:, begin:end], cache)
        parts.append(logits)
    assert cache.lengths.tolist() == [10, 10]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_packed_row_is_its_documents_apart(name):
    decoder, params = built(name)
    first, second = tokens(1, 6, seed=1), tokens(1, 4, seed=2)
    packed = Rows(
        jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1),
        jnp.array([10]),
        jnp.array([[1] * 6 + [2] * 4 + [0] * 2]),
    )
    alone = Rows(jnp.concatenate([first, jnp.pad(second, ((0, 0), (0, 2)))]), jnp.array([6, 4]))
    loss = jax.jit(mean_token_loss(decoder))
    (together, count), (apart, expected_count) = loss(params, packed), loss(params, alone)
    assert count == expected_count == 5 + 3
    np.testing.assert_allclose(together, apart, rtol=2e-5)


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_greedy_writing_is_reading_and_taking_the_best_at_rows_of_unequal_length(name):
    decoder, params = built(name)
    prompts = Rows(tokens(2, 5), jnp.array([5, 2]))
    written = np.asarray(generate(decoder, params, prompts, 6))
    apply = jax.jit(decoder.apply)
    for row, length in enumerate((5, 2)):
        so_far = np.asarray(prompts.tokens)[row, :length].tolist()
        for token in written[row]:
            logits = np.asarray(apply({"params": params}, jnp.array([so_far + [0] * (11 - len(so_far))])))
            assert logits[0, len(so_far) - 1].argmax() == token
            so_far.append(int(token))


def test_sampling_follows_the_temperature_and_keeps_to_the_most_probable():
    decoder, params = built("mistral")
    prompts = Rows(jnp.tile(tokens(1, 3), (1_000, 1)), jnp.full(1_000, 3))
    logits = np.asarray(decoder.apply({"params": params}, prompts.tokens[:1]))[0, 2] / 1.5
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p)

    def shares(**options):
        drawn = generate(decoder, params, prompts, 1, key=jax.random.key(1), temperature=1.5, **options)
        return np.bincount(np.asarray(drawn)[:, 0], minlength=len(p)) / 1_000

    np.testing.assert_allclose(shares(), p, atol=4 * np.sqrt(0.25 / 1_000))
    assert (shares(top_k=3)[order[3:]] == 0).all() and (shares(top_k=3)[order[:3]] > 0).all()
    kept = int((np.cumsum(p[order]) - p[order] < 0.5).sum())
    assert (shares(top_p=0.5)[order[kept:]] == 0).all() and (shares(top_p=0.5)[order[:kept]] > 0).all()


def test_blocks_windows_segments_and_weights_equal_the_plain_softmax():
    generator = np.random.default_rng(0)
    q, k, v = (jnp.asarray(generator.normal(size=(2, 11, heads, 4))) for heads in (4, 2, 2))
    segments = jnp.asarray([[1] * 5 + [2] * 6, [1] * 11])
    visible = Visible(4, segments, jnp.asarray(generator.normal(size=(2, 11))), jnp.asarray(slopes(4)))
    expected = np.zeros((2, 11, 4, 4))
    weights = np.zeros((2, 4, 11, 11))
    rows, log_weight, penalty = jax.tree.map(np.asarray, (segments, visible.key_log_weight, visible.slopes))
    queries, keys, values = map(np.asarray, (q, k, v))
    for n, p, h in np.ndindex(2, 11, 4):
        seen = [s for s in range(11) if s <= p and p - s < 4 and rows[n, s] == rows[n, p]]
        logit = [queries[n, p, h] @ keys[n, s, h // 2] / 2 + log_weight[n, s] - (p - s) * penalty[h] for s in seen]
        weights[n, h, p, seen] = np.exp(logit) / np.exp(logit).sum()
        expected[n, p, h] = weights[n, h, p] @ values[n, :, h // 2]
    for block in (3, 64):
        np.testing.assert_allclose(jax.jit(lambda *x, b=block: attend(*x, visible, b))(q, k, v), expected, atol=2e-6)
    library = jax.jit(lambda *x: attend_by_library(*x, visible, "xla"))(q, k, v)
    np.testing.assert_allclose(library, expected, atol=2e-6)
    np.testing.assert_allclose(jax.jit(lambda *x: attention_weights(*x, visible))(q, k), weights, atol=2e-6)
    at, unpacked = jnp.tile(jnp.arange(7, 11)[None], (2, 1)), visible._replace(segments=None)
    cached = jax.jit(lambda *x: attend_cached(*x, at, unpacked))(q[:, 7:], k, v)
    np.testing.assert_allclose(cached[1], expected[1, 7:], atol=2e-6)
    assert np.exp(np.float32(HIDDEN) - np.float32(-1e4)) == 0


def test_the_second_derivative_of_attention_in_blocks_is_that_of_the_plain_one(float64):
    generator = np.random.default_rng(1)
    q, k, v, w = (jnp.asarray(generator.normal(size=(1, 7, heads, 4))) for heads in (2, 2, 2, 2))

    def plain(q, k, v):
        return jnp.einsum("nhqs,nshd->nqhd", attention_weights(q, k), v)

    def curvature(f):
        gradient = jax.grad(lambda *x: jnp.vdot(w, f(*x)), (0, 1, 2))
        return jax.jit(lambda *x: jax.jvp(gradient, x, (w, q, k)))(q, k, v)

    blocks, whole = curvature(lambda *x: attend(*x, block=3)), curvature(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), blocks, whole)


@pytest.mark.parametrize("name", ["mistral", "scanned"])
def test_what_is_recorded_is_what_the_decoder_does(name):
    decoder, params = built(name)
    inputs = tokens()
    seen = jax.jit(lambda p, x: recorded(decoder, p, x))(params, inputs)
    np.testing.assert_allclose(seen.logits, jax.jit(decoder.apply)({"params": params}, inputs), atol=1e-5)
    assert seen.blocks.shape == (2, 2, 10, 16) and seen.attention.shape == (2, 2, 4, 10, 10)
    np.testing.assert_allclose(np.asarray(seen.attention).sum(axis=-1), 1, rtol=1e-5)
    assert not np.triu(np.asarray(seen.attention), 1).any()


def stacked(params):
    layers = [params["trunk"][f"layers_{i}"] for i in range(2)]
    rest = {name: leaf for name, leaf in params["trunk"].items() if not name.startswith("layers_")}
    return {**params, "trunk": {**rest, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}}


@pytest.mark.parametrize("remat", ["none", "full", "products"])
def test_scanned_and_rematerialised_layers_have_the_same_losses_and_gradients(remat):
    decoder, params = built("mistral")
    rows = Rows(tokens(), jnp.array([10, 7]))
    value, gradient = jax.jit(jax.value_and_grad(lambda p: example_losses(decoder)(p, rows).sum()))(params)
    scanned = Decoder(dataclasses.replace(decoder.config, scan_layers=True, remat=remat))
    again, scanned_gradient = jax.jit(jax.value_and_grad(lambda p: example_losses(scanned)(p, rows).sum()))(
        stacked(params)
    )
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), scanned_gradient, stacked(gradient)
    )


def test_bfloat16_is_near_float32_and_its_parameters_losses_and_gradients_stay_float32():
    decoder, params = built("mistral")
    narrow = Decoder(dataclasses.replace(decoder.config, compute="bfloat16"))
    rows = Rows(tokens(), jnp.array([10, 7]))
    losses, gradient = jax.jit(jax.value_and_grad(lambda p: example_losses(narrow)(p, rows).sum()))(params)
    assert losses.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses, jax.jit(example_losses(decoder))(params, rows).sum(), rtol=0.02)
    assert jax.eval_shape(lambda: empty_cache(narrow.config, 1, 4)).keys[0].dtype == jnp.bfloat16


def test_xpos_products_are_rotary_ones_that_fall_with_the_distance_alone():
    for pair in range(4):
        vector = jnp.zeros((1, 1, 1, 8)).at[..., [pair, pair + 4]].set(jnp.array([0.6, 0.8]))

        def inner(p, s, decay, vector=vector):
            query = rotate(vector, jnp.array([[p]]), 1e4, decay)
            return float(jnp.vdot(query, rotate(vector, jnp.array([[s]]), 1e4, -decay)))

        np.testing.assert_allclose(inner(300, 260, 1), inner(60, 20, 1), rtol=2e-4)
        expected = ((2 * pair + 3.2) / 11.2) ** (40 / 512)
        np.testing.assert_allclose(inner(60, 20, 1) / inner(60, 20, 0), expected, rtol=1e-4)


def test_more_layers_take_no_more_equations_when_they_are_scanned():
    def equations(layers):
        decoder = Decoder(dataclasses.replace(BASE, layers=layers, scan_layers=True))
        return str(jax.make_jaxpr(lambda: decoder.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))()).count("\n")

    assert equations(9) == equations(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": "learned"}, "max_length"),
        ({"window": 0}, "window"),
        ({"momentum": 1.0}, "0 <= momentum < 1"),
        ({"momentum": 0.5, "window": 4}, "one of the two"),
        ({"positions": "rotary", "head_size": 5}, "even"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **change)


def test_rows_beyond_the_learned_positions_are_refused_while_tracing():
    decoder, params = built("gpt2")
    with pytest.raises(ValueError, match="max_length 32"):
        jax.eval_shape(decoder.apply, {"params": params}, jnp.zeros((1, 33), jnp.int32))
    with pytest.raises(ValueError, match="30 tokens and 3 more"):
        generate(decoder, params, Rows(jnp.zeros((1, 30), jnp.int32), jnp.array([30])), 3)


@pytest.mark.parametrize(
    ("name", "millions"), [("160m", 162), ("470m", 468), ("1b", 1_004), ("1.7b", 1_742), ("scorer-125m", 124)]
)
def test_the_papers_models_have_their_sizes(name, millions):
    decoder = Decoder(preset(name, 50_257 if name == "scorer-125m" else 32_000))
    params = jax.eval_shape(lambda: decoder.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))["params"]
    assert parameter_count(params) == pytest.approx(millions * 1e6, rel=0.01)


def test_an_unknown_preset_is_told_the_known_ones():
    with pytest.raises(ValueError, match="160m"):
        preset("160M-big", 100)
    assert {"tiny", "law", "1.7b"} <= PRESETS.keys()


def test_the_momentum_scan_is_the_toeplitz_product(float64):
    generator = np.random.default_rng(5)
    value, eta, length = generator.normal(size=(2, 9, 2, 3)), 0.7, 9
    gap = np.arange(length)[:, None] - np.arange(length)[None, :]
    toeplitz = np.where(gap > 0, eta ** np.maximum(gap, 0.0), 0.0)
    shared = np.einsum("ts,nskd->ntkd", toeplitz, value)[:, :, [0, 0, 1, 1]]
    np.testing.assert_allclose(momentum(jnp.asarray(value), eta, 4), shared, rtol=0, atol=1e-13)
    # Documents apart, and weights on values.
    segments, weight = np.array([[1] * 4 + [2] * 5, [1] * 9]), generator.uniform(0.1, 2.0, (2, 9))
    apart = np.where(segments[:, :, None] == segments[:, None, :], toeplitz, 0.0)
    expected = np.einsum("nts,ns,nskd->ntkd", apart, weight, value)
    visible = Visible(segments=jnp.asarray(segments), key_log_weight=jnp.log(jnp.asarray(weight)))
    np.testing.assert_allclose(momentum(jnp.asarray(value), eta, 2, visible), expected, rtol=0, atol=1e-13)


def with_momentum(eta):
    return Decoder(dataclasses.replace(BASE, momentum=eta))


def test_momentum_is_added_to_each_head_and_at_0_leaves_every_bit_as_it_is():
    decoder, params = noisy(BASE)
    inputs = tokens()
    plain, least, some = (
        np.asarray(jax.jit(with_momentum(eta).apply)({"params": params}, inputs)) for eta in (0.0, 1e-30, 0.3)
    )
    assert np.array_equal(plain, jax.jit(decoder.apply)({"params": params}, inputs))
    assert np.array_equal(plain, least)  # through the code of momentum as well
    np.testing.assert_array_equal(some[:, 0], plain[:, 0])  # nothing stands before the first token
    assert np.abs(some[:, 1:] - plain[:, 1:]).max() > 0.1
    library = Decoder(dataclasses.replace(BASE, momentum=0.3, attention="xla"))
    np.testing.assert_allclose(jax.jit(library.apply)({"params": params}, inputs), some, atol=2e-5)


def test_momentum_refuses_a_cache_and_files_that_cannot_hold_it():
    decoder, params = with_momentum(0.3), noisy(BASE)[1]
    with pytest.raises(ValueError, match="read whole rows without a cache"):
        generate(decoder, params, Rows(tokens(1, 4), jnp.array([4])), 2)
    with pytest.raises(ValueError, match=r"momentum is 0\.3, the format holds 0\.0"):
        architecture(decoder.config)
