"""The encoder trained through its prototypes or a linear head: what a step is, and what no step is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError
from scipy.special import log_softmax

from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.fit import fit_prototypes
from pmpjax.prototypes.fine_tuning.store import class_log_probabilities
from pmpjax.prototypes.fine_tuning.texts import TextEncoder, embed_texts, padded
from pmpjax.prototypes.fine_tuning.trained import Training, readout_log_probabilities, train_encoder
from tests.prototypes.fine_tuning.bars import Bars

POLICY = Policy(per_class=2, steps=0, passes=3)
LABELS = np.arange(12) // 6
TEXTS = [" ".join(pair) for digits in ("0123", "3456") for pair in itertools.combinations(digits, 2)]


def embed(params, tokens, lengths):
    """Unit vectors of the mean of a table's rows."""
    inside = (jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]).astype(jnp.float32)
    mean = jnp.sum(params["table"][tokens] * inside[:, :, None], axis=1)
    return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)


def encoder():
    """A table of seven random rows; tokens are digits."""
    table = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    return TextEncoder(embed, {"table": jnp.asarray(table)}, lambda texts: [list(map(int, t.split())) for t in texts])


def settings(**changes):
    return Training(**{"epochs": 1, "batch": 12, "learning_rate": 0.01, "temperature": 5.0} | changes)


def trained(**changes):
    return train_encoder(encoder(), TEXTS, LABELS, settings(**changes), policy=POLICY)


def loss_of(found, temperature=5.0):
    return -float(np.mean(log_softmax(np.asarray(found) / temperature, axis=1)[np.arange(12), LABELS]))


@pytest.mark.parametrize("readout", ["prototypes", "linear"])
def test_the_loss_falls_and_the_readout_goes_with_the_encoder(readout):
    done = trained(readout=readout, epochs=20)
    assert len(done.losses) == 20 and done.losses[-1] < done.losses[0] - 0.1
    states = jnp.asarray(embed_texts(done.encoder, TEXTS))
    assert loss_of(readout_log_probabilities(done.readout, states, 2)) < done.losses[0] - 0.1
    again = trained(readout=readout, epochs=20)
    np.testing.assert_array_equal(again.encoder.params["table"], done.encoder.params["table"])


@pytest.mark.parametrize(("readout", "per_class"), [("prototypes", 2), ("linear", 1)])
def test_before_the_first_step_it_is_the_frozen_encoder(readout, per_class):
    """The first loss is that of prototypes fitted to the frozen vectors; a rate of next to nothing moves nothing."""
    frozen = embed_texts(encoder(), TEXTS)
    arrays = jnp.asarray(frozen), jnp.asarray(LABELS), jnp.ones(12)
    policy = Policy(per_class=per_class, steps=0, passes=3)
    store = fit_prototypes(jax.random.key(0), *arrays, 1e-3, classes=2, policy=policy)
    done = trained(readout=readout, learning_rate=1e-9)
    np.testing.assert_allclose(done.losses[0], loss_of(class_log_probabilities(store, arrays[0], 2)), rtol=1e-5)
    states = embed_texts(done.encoder, TEXTS)
    np.testing.assert_allclose(states, frozen, atol=1e-6)
    one, other = (
        PrototypeClassifier(policy=POLICY, concentration=0.0).fit(found, LABELS).predict_proba(frozen)
        for found in (states, frozen)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_one_text_a_class_is_learned_from_at_the_temperature_of_the_loss():
    """At temperature 1 the prototypes are the texts, the loss is 0, and so is the gradient."""
    texts, labels = [TEXTS[0], TEXTS[-1]], np.arange(2)
    losses = [
        train_encoder(encoder(), texts, labels, settings(batch=2, temperature=t), policy=POLICY).losses[0]
        for t in (1.0, 10.0)
    ]
    assert losses[0] < 1e-6 and losses[1] > 1e-2


def test_a_linear_readout_is_plain_fine_tuning():
    """One step against AdamW on the encoder and Adam on a linear head that begins at the class means, by hand."""
    own, frozen = encoder(), embed_texts(encoder(), TEXTS)
    means = np.stack([frozen[LABELS == c].mean(axis=0) for c in range(2)])
    scale = 0.05 * ((frozen - frozen.mean(axis=0)) ** 2).sum(axis=1).mean()
    head = jnp.asarray(means), jnp.asarray(-(means**2).sum(axis=1) / (2 * scale))
    tokens, lengths = map(jnp.asarray, padded(own.ids(TEXTS), 12))

    @jax.jit
    @jax.grad
    def slope(moved):
        found = embed(moved[0], tokens, lengths) @ moved[1][0].T / scale + moved[1][1][None, :]
        return optax.softmax_cross_entropy_with_integer_labels(found / 5.0, jnp.asarray(LABELS)).mean()

    gradient, expected = slope((own.params, head)), []
    for rule, one, moved in zip((optax.adamw(0.01), optax.adam(0.1)), gradient, (own.params, head), strict=True):
        updates, _ = rule.update(one, rule.init(moved), moved)
        expected.append(optax.apply_updates(moved, updates))
    done = trained(readout="linear")
    np.testing.assert_allclose(done.encoder.params["table"], expected[0]["table"], atol=1e-5)
    np.testing.assert_allclose(done.readout.weights, expected[1][0], atol=1e-5)
    np.testing.assert_allclose(done.readout.bias, expected[1][1], rtol=1e-5)


def test_rows_that_fill_a_batch_weigh_nothing_and_the_bar_counts_steps():
    np.testing.assert_allclose(trained(batch=16).losses, trained().losses, rtol=1e-5)
    bars = Bars()
    with bars("encoder", 6) as bar:
        train_encoder(encoder(), TEXTS, LABELS, settings(epochs=2, batch=5), policy=POLICY, bar=bar)
    assert bars["encoder"] == [6, 6]


def test_what_cannot_be_trained_is_refused():
    for texts, labels in ((TEXTS[:3], LABELS), (TEXTS, np.zeros(12, int)), (TEXTS, 2 * LABELS)):
        with pytest.raises(ValueError, match="of two classes at least"):
            train_encoder(encoder(), texts, labels, settings(), policy=POLICY)
    with pytest.raises(ValueError, match="lower the learning rate"):
        trained(readout="linear", learning_rate=3e37, batch=6)
    for wrong in ({"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Training(**wrong)
    with pytest.raises((ValueError, TypeCheckError), match="readout"):
        Training(readout="none")
