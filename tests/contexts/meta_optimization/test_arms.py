"""Fine-tuning of keys and values against optax, and layers whose change knows nothing of those above."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.contexts.meta_optimization.arms import fine_tune, key_values, layer_causal
from pmpjax.contexts.meta_optimization.reading import in_context, training_rows
from pmpjax.contexts.meta_optimization.record import Model, queries
from pmpjax.models import Decoder
from tests.contexts.meta_optimization.small import DEMONSTRATIONS, LAYOUT, OPTIONS, QUESTIONS, model

ROWS = training_rows(LAYOUT, in_context(LAYOUT, DEMONSTRATIONS, QUESTIONS.queries))


def different(one, other):
    return {
        "/".join(str(part.key) for part in path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
        if np.abs(np.asarray(a) - np.asarray(b)).max() > 0
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_an_epoch_is_optax_with_a_mask(float64, name):
    decoder, params = model(name)
    tuned = fine_tune(model(name), ROWS, 0.05)
    mask = jax.tree_util.tree_map_with_path(lambda path, _: len(path) > 1 and path[-2].key in ("key", "value"), params)
    frozen = jax.tree.map(lambda trained: not trained, mask)
    rule = optax.chain(optax.masked(optax.sgd(0.05), mask), optax.masked(optax.set_to_zero(), frozen))
    state, losses = rule.init(params), []

    @jax.jit
    def step(params, state, tokens, labels):
        def loss(params):
            logits = decoder.apply({"params": params}, tokens[None, :-1])[0]
            each = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:])
            return jnp.sum(each * labels) / jnp.sum(labels)

        value, slope = jax.value_and_grad(loss)(params)
        updates, state = rule.update(slope, state, params)
        return optax.apply_updates(params, updates), state, value

    met = []
    for tokens, labels in zip(ROWS.tokens, ROWS.labels, strict=True):
        met.append(params)
        params, state, value = step(params, state, jnp.asarray(tokens), jnp.asarray(labels))
        losses.append(float(value))
    np.testing.assert_allclose(tuned.losses, losses, rtol=1e-10)
    for a, b in zip(jax.tree.leaves(tuned.model.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    changed = different(tuned.model.params, model(name).params)
    assert changed and all(leaf.split("/")[-2] in ("key", "value") for leaf in changed)
    assert tuned.queries.shape == (2, 16, 16)
    first = jax.jit(queries, static_argnums=0)(*model(name), jnp.asarray(ROWS.tokens[:1]))
    np.testing.assert_allclose(tuned.queries[:, :4], first[:, 0, 2:6], rtol=0, atol=1e-10)


def changed_above(name, arm):
    """Changes of the key and value projections by layer, with the model's layers and with others above the first."""
    found = []
    for scale in (1.0, 1.7):
        params = model(name).params
        layers = jax.tree.map(lambda leaf: leaf.at[1:].multiply(scale), params["trunk"]["layers"])
        one = model(name)._replace(params={**params, "trunk": {**params["trunk"], "layers": layers}})
        after = key_values(arm(one, ROWS, 0.05).model.params)
        found.append(jax.tree.map(lambda a, b: np.asarray(a - b), after, key_values(one.params)))
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_a_causal_layer_knows_none_above(float64, name):
    one, other = changed_above(name, layer_causal)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-12)
    assert np.abs(one["value"]["kernel"]).max(axis=(1, 2)).min() > 0
    one, other = changed_above(name, fine_tune)
    assert np.abs(one["value"]["kernel"][0] - other["value"]["kernel"][0]).max() > 1e-6


def test_the_last_layers_first_step_is_that_of_fine_tuning_where_none_below_moved(float64):
    """With one layer, a loss at that layer's output is the model's own."""
    decoder, params = model("llama")
    layers = jax.tree.map(lambda leaf: leaf[:1], params["trunk"]["layers"])
    one = Model(
        Decoder(dataclasses.replace(decoder.config, layers=1)),
        {**params, "trunk": {**params["trunk"], "layers": layers}},
    )
    a, b = (arm(one, ROWS, 0.05).model.params for arm in (fine_tune, layer_causal))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


def test_a_rate_of_zero_changes_nothing():
    for arm in (fine_tune, layer_causal):
        assert not different(arm(model("llama"), ROWS, 0.0).model.params, model("llama").params)
