"""Contributions of demonstrations by a costate over layers, against autodiff, differences and a recording."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.contexts.demonstrations import answer_losses, best, contributions, forward_problem, token_log_weights
from pmpjax.contexts.prompt import Format, balanced_groups, build_prompt, stack_prompts
from pmpjax.models import Decoder, DecoderConfig, initialise

BASE = DecoderConfig(vocabulary=19, width=8, layers=3, heads=4, key_value_heads=2, hidden=12)
OPTIONS = {
    "llama": {},
    "gpt2 with momentum": {
        "norm": "layer",
        "feed_forward": "gelu",
        "biases": True,
        "positions": "learned",
        "max_length": 40,
        "momentum": 0.4,
        "tied_embeddings": False,
    },
    "scanned": {"scan_layers": True, "window": 16},
}
FORM = Format(lambda text: [ord(letter) - ord("a") for letter in text], window=40, prefix=(0,))
TEXTS = ["bcd", "efgh", "ijk", "lmno"]


@functools.cache
def model(name):
    decoder = Decoder(dataclasses.replace(BASE, **OPTIONS[name]))
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    generator = np.random.default_rng(1)
    return decoder, jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) * 0.5), params)


@functools.cache
def prompts():
    """Three queries; the last demonstration is in one prompt alone."""
    parts = [("pq", "r", [0, 1, 2]), ("pc", "sb", [2, 0, 1]), ("qf", "r", [3, 1, 0, 2])]
    return stack_prompts([build_prompt(FORM, TEXTS, query, answer, chosen) for query, answer, chosen in parts])


@pytest.mark.parametrize("name", OPTIONS)
def test_contributions_are_minus_the_gradient_of_the_decoders_own_loss(float64, name):
    decoder, params = model(name)
    log_weights = jnp.array([0.3, -0.5, 0.0, 0.2])
    found = contributions(decoder, params, prompts(), log_weights, batch=2)
    losses = jax.jit(lambda u: answer_losses(decoder, params, prompts(), u))
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(losses(u))))(log_weights)
    np.testing.assert_allclose(found.total, -gradient / np.array([3, 3, 3, 1]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.loss, losses(log_weights).mean(), rtol=1e-13)
    assert found.prompts.tolist() == [3, 3, 3, 1] and found.by_layer.shape == (3, 4)
    for i in range(4):
        move = jnp.zeros(4).at[i].set(1e-5)
        slope = (losses(log_weights + move) - losses(log_weights - move)).sum() / 2e-5
        np.testing.assert_allclose(found.total[i] * found.prompts[i], -slope, rtol=1e-5, atol=1e-9)


def test_at_weight_one_the_logarithm_and_the_weight_have_one_derivative(float64):
    decoder, params = model("llama")
    found = contributions(decoder, params, prompts(), batch=2)
    losses = jax.jit(jax.grad(lambda w: jnp.sum(answer_losses(decoder, params, prompts(), jnp.log(w)))))
    np.testing.assert_allclose(found.total * found.prompts, -losses(jnp.ones(4)), rtol=0, atol=1e-12)
    whole = contributions(decoder, params, prompts())
    np.testing.assert_allclose(whole.by_layer, found.by_layer, rtol=0, atol=1e-12)


def test_a_layers_contribution_is_that_of_a_weight_in_this_layer_alone(float64):
    decoder, params = model("llama")
    problem, start, layers = forward_problem(decoder, params, prompts())
    found = contributions(decoder, params, prompts(), batch=2)
    value = jax.jit(lambda u: pmp.objective(problem, start, u, layers))
    move = jnp.zeros((3, 4)).at[1, 2].set(1e-5)
    np.testing.assert_allclose(-(value(move) - value(-move)) / 2e-5 / 3, found.by_layer[1, 2], rtol=1e-6)
    np.testing.assert_allclose(value(jnp.zeros((3, 4))) / 3, found.loss, rtol=1e-13)


def test_weights_on_all_keys_together_do_nothing(float64):
    """Softmax does not see a constant: where every token belongs to one, contributions of a layer add to 0."""
    decoder, params = model("llama")
    owner = np.where(prompts().owner < 0, 3, prompts().owner)
    found = contributions(decoder, params, prompts()._replace(owner=owner), batch=2)
    np.testing.assert_allclose((found.by_layer * found.prompts).sum(axis=1), 0, atol=1e-13)
    assert np.abs(found.by_layer).max() > 1e-3


def test_the_answers_loss_is_that_of_a_row_and_labels_can_be_told_apart_alone(float64):
    decoder, params = model("llama")
    one = stack_prompts([build_prompt(FORM, TEXTS, "pq", "r")])
    length = one.tokens.shape[1]
    tokens = jnp.asarray(one.tokens)
    token = jax.jit(lambda p, x: decoder.apply({"params": p}, x, method="token_losses"))(params, tokens)
    losses = jax.jit(lambda u, among: answer_losses(decoder, params, one, u, among)[0])
    np.testing.assert_allclose(losses(jnp.zeros(4), None), token[0, length - 2], rtol=1e-12)
    among = jnp.array([18, 17, 2])  # "r" is 17
    logits = jax.jit(decoder.apply)({"params": params}, tokens)[0, -2]
    expected = jax.nn.logsumexp(logits[among]) - logits[17]
    np.testing.assert_allclose(losses(jnp.zeros(4), among), expected, rtol=1e-12)
    found = contributions(decoder, params, one, among=among)
    gradient = jax.jit(jax.grad(losses))(jnp.zeros(4), among)
    np.testing.assert_allclose(found.total, -gradient, rtol=0, atol=1e-12)


def averaging_model():
    """Attention that looks at all tokens alike and writes what it sees: p(token) rises with its share."""
    width = BASE.vocabulary
    config = dataclasses.replace(BASE, width=width, layers=1, heads=1, key_value_heads=1, positions="none")
    decoder = Decoder(config)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    params = jax.tree.map(jnp.zeros_like, params)
    params["trunk"]["embedding"] = jnp.eye(width)
    params["trunk"]["norm"]["scale"] = jnp.ones(width)
    block = params["trunk"]["layers_0"]
    block["attention_norm"]["scale"] = jnp.ones(width)
    block["value"]["kernel"] = block["output"]["kernel"] = jnp.eye(width)
    return decoder, params


def test_the_demonstration_that_shows_the_answer_is_the_best_one():
    decoder, params = averaging_model()
    texts = ["bk", "cl", "dm", "en"]
    rows = [build_prompt(FORM, texts, "q", "m", order) for order in ([0, 1, 2, 3], [3, 2, 0, 1])]
    found = contributions(decoder, params, stack_prompts(rows))
    assert best(found.total, 1).tolist() == [2]
    assert found.total[2] > 0 > np.delete(found.total, 2).max()


def test_what_is_in_no_prompt_has_no_score_and_is_never_chosen(float64):
    decoder, params = model("llama")
    owner = np.where(prompts().owner == 3, -1, prompts().owner)
    found = contributions(decoder, params, prompts()._replace(owner=owner), batch=2)
    assert np.isnan(found.total).tolist() == [False, False, False, True] and found.prompts.tolist() == [3, 3, 3, 0]
    with pytest.raises(ValueError, match="1 demonstrations have no finite score, the first is 3"):
        best(found.total, 1)
    groups = balanced_groups(jax.random.key(0), 4, 2)
    covered = stack_prompts([build_prompt(FORM, TEXTS, "pq", "r", group) for group in groups.tolist()])
    assert set(np.unique(covered.owner)) == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": ""}, "1 prompts have no answer, the first is 0"),
        ({"log_weights": jnp.zeros(3)}, r"shape \(3,\), expected \(4,\)"),
        ({"among": jnp.array([1, 2])}, "not one token of `among`, the first is 0 with"),
        ({"answer": "rr", "among": jnp.array([17, 2])}, "not one token of `among`"),
    ],
)
def test_what_cannot_be_scored_is_an_error(float64, change, words):
    decoder, params = model("llama")
    rows = stack_prompts([build_prompt(FORM, TEXTS, "pq", change.get("answer", "r"))])
    with pytest.raises(ValueError, match=words):
        contributions(decoder, params, rows, **{name: value for name, value in change.items() if name != "answer"})


def test_numbers_that_are_not_finite_and_too_many_to_choose_are_errors(float64):
    decoder, params = model("llama")
    with pytest.raises(ValueError, match=r"prompts 0 to 1: \w+_not_finite at layer \d of 3"):
        contributions(decoder, jax.tree.map(lambda leaf: leaf * np.nan, params), prompts(), batch=2)
    with pytest.raises(ValueError, match="expected 1 to 2"):
        best(np.zeros(2), 3)


def test_log_weights_go_to_a_demonstrations_own_tokens():
    weights = token_log_weights(jnp.asarray(prompts().owner), jnp.arange(1.0, 5.0))
    expected = np.where(prompts().owner >= 0, prompts().owner + 1.0, 0.0)
    np.testing.assert_array_equal(weights, expected)
