"""The arms on one list of demonstrations: scores against the decoder's own, controls, choice of rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.contexts.meta_optimization.comparison import (
    Rates,
    Validation,
    best_rate,
    compare,
    compare_orders,
    hidden_scores,
    rate_validations,
    scores,
    validate,
)
from pmpjax.contexts.meta_optimization.reading import in_context, zero_shot
from pmpjax.contexts.meta_optimization.record import Model
from tests.contexts.meta_optimization.small import BENCH, DEMONSTRATIONS, LAYOUT, OPTIONS, QUESTIONS, model, plain

LONGER = BENCH._replace(layout=LAYOUT._replace(options=[[1], [2, 7]]))  # a label of two tokens


@functools.cache
def log_probabilities(name):
    decoder, _ = plain(name)
    return jax.jit(lambda params, row: jax.nn.log_softmax(decoder.apply({"params": params}, row)[0]))


def log_probability(name, tokens, option):
    row = np.zeros((1, 30), np.int32)
    row[0, : len(tokens) + len(option)] = [*tokens, *option]
    found = np.asarray(log_probabilities(name)(plain(name)[1], jnp.asarray(row)))
    return np.mean([found[len(tokens) - 1 + i, token] for i, token in enumerate(option)])


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_the_decoders_own_also_of_labels_of_several_tokens(name):
    shown = in_context(LAYOUT, DEMONSTRATIONS, QUESTIONS.queries)
    found = scores(LONGER, model(name), shown)
    for n in range(5):
        row = shown.tokens[n, : shown.last[n] + 1]
        expected = [log_probability(name, row, option) for option in LONGER.layout.options]
        np.testing.assert_allclose(found[n], expected, atol=2e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_scores_are_those_without_demonstrations(name):
    """Without a prefix rotary positions shift away; learned ones do not, and the answer is another one."""
    layout = LONGER.layout._replace(form=LAYOUT.form._replace(prefix=()))
    bench = LONGER._replace(layout=layout)
    shown = in_context(layout, DEMONSTRATIONS, QUESTIONS.queries)
    hidden, zero = hidden_scores(bench, model(name), shown), scores(bench, model(name), zero_shot(layout, shown))
    assert (np.abs(hidden - zero).max() < 2e-4) == (name == "llama")


@pytest.mark.slow
def test_every_arm_and_measure_is_there():
    read: list[int] = []
    bench = LONGER._replace(told=read.append)
    found = compare(bench, model("llama"), DEMONSTRATIONS, QUESTIONS, Rates(0.1, 0.1), np.random.default_rng(0))
    assert set(found.correct) == {"zero_shot", "in_context", "position_matched", "fine_tuned", "layer_causal"}
    assert {values.shape for values in found.by_layer.values()} == {(2, 5)}
    assert sum(read) == 6 * 5
    for name, values in found.by_layer.items():
        low = 0 if name == "attention_to_demonstrations" else -1
        # The first layer's value at the last token is another one after training: nothing is undefined here.
        assert np.isfinite(values).all() and values.min() >= low - 1e-9 and values.max() <= 1 + 1e-9, name
    again = compare(LONGER, model("llama"), DEMONSTRATIONS, QUESTIONS, Rates(0.1, 0.1), np.random.default_rng(0))
    for name, values in found.by_layer.items():
        np.testing.assert_array_equal(values, again.by_layer[name])


def test_training_that_changes_nothing_has_no_update():
    found = compare(BENCH, model("llama"), DEMONSTRATIONS, QUESTIONS, Rates(0.0, 0.0), np.random.default_rng(0))
    assert np.isnan(found.by_layer["sim_aou"]).all()
    np.testing.assert_allclose(found.by_layer["sim_am"], found.by_layer["sim_am_zero_shot"])
    assert (found.correct["fine_tuned"] == found.correct["zero_shot"]).all()


def test_a_rate_is_chosen_by_accuracy_then_loss():
    found = rate_validations(BENCH, model("llama"), DEMONSTRATIONS, QUESTIONS, (0.0, 0.1, 1e6))
    assert list(found) == ["fine_tuned", "layer_causal"] and list(found["fine_tuned"]) == [0.0, 0.1, 1e6]
    assert found["fine_tuned"][0.0] == found["layer_causal"][0.0]
    assert best_rate({0.1: Validation(0.9, float("inf")), 0.2: Validation(0.1, 3.0)}) == 0.2
    assert best_rate({1.0: Validation(0.5, 1.0), 0.5: Validation(0.5, 1.0)}) == 0.5
    with pytest.raises(ValueError, match=r"diverged at every rate, 1, 2; give lower ones"):
        best_rate({1.0: Validation(0.0, float("inf")), 2.0: Validation(0.0, float("inf"))})


def test_a_diverged_model_is_counted_and_not_an_answer():
    decoder, params = model("llama")
    asked = zero_shot(LAYOUT, in_context(LAYOUT, DEMONSTRATIONS, QUESTIONS.queries))
    broken = Model(decoder, jax.tree.map(lambda leaf: leaf * np.nan, params))
    assert validate(BENCH, broken, asked, QUESTIONS.labels) == (0.0, float("inf"))
    good = validate(BENCH, model("llama"), asked, QUESTIONS.labels)
    found = scores(BENCH, model("llama"), asked)
    expected = -jax.nn.log_softmax(jnp.asarray(found), axis=1)[np.arange(5), QUESTIONS.labels].mean()
    assert good.loss == pytest.approx(float(expected), rel=1e-5)


def test_orders_of_one_list():
    orders = [DEMONSTRATIONS, DEMONSTRATIONS[::-1], DEMONSTRATIONS]
    found = compare_orders(BENCH, model("llama"), orders, QUESTIONS, 0.1)
    assert {values.shape for values in found.by_layer.values()} == {(2, 5)}
    assert all(len(values) == 3 and values[0] == values[2] for values in found.accuracy.values())
    assert all(0 <= share <= 1 for share in found.changed.values())
    same = compare_orders(BENCH, model("llama"), [DEMONSTRATIONS] * 2, QUESTIONS, 0.1)
    for values in same.by_layer.values():
        np.testing.assert_allclose(values, 1, atol=1e-6)
    assert set(same.changed.values()) == {0.0}
    with pytest.raises(ValueError, match="1 orders of the demonstrations; give two"):
        compare_orders(BENCH, model("llama"), [DEMONSTRATIONS], QUESTIONS, 0.1)
