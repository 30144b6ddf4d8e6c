"""Fitting whole: modes are found, bits repeat, weights count, principles can be switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.prototypes.fine_tuning.fit import Policy, fit_prototypes, objective, variance_of
from pmpjax.prototypes.fine_tuning.store import class_log_probabilities
from tests.prototypes.fine_tuning.test_store import drawn, store_of

CORNERS = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])


def corners(seed=0, number=80):
    """Two classes, each at two opposite corners: no linear head tells them apart."""
    generator = np.random.default_rng(seed)
    place = np.arange(number) % 4
    return np.float32(CORNERS[place] + 0.1 * generator.normal(size=(number, 2))), place // 2


def fitted(alpha=0.5, weights=None, **policy):
    states, labels = corners()
    weights = jnp.ones(len(labels)) if weights is None else jnp.asarray(weights)
    arrays = jnp.asarray(states), jnp.asarray(labels), weights
    return fit_prototypes(jax.random.key(0), *arrays, alpha, classes=2, policy=Policy(**policy))


def accuracy(store):
    states, labels = corners(1)
    return float(np.mean(class_log_probabilities(store, jnp.asarray(states), 2).argmax(axis=1) == labels))


def test_modes_are_found_and_without_creation_they_are_not():
    store = fitted()
    assert store.active.sum() == 4 and accuracy(store) == 1.0
    assert fitted(0.0).active.sum() == 2 and accuracy(fitted(per_class=1)) < 0.8


@pytest.mark.parametrize("off", [{"initialisation": "example"}, {"refine": False}, {"diversity": 0.0}])
def test_each_other_principle_can_be_switched_off(off):
    store = fitted(**off)
    assert np.isfinite(store.points).all() and store.active.sum() >= 2


def test_the_same_key_gives_the_same_bits():
    for one, other in zip(fitted(initialisation="example"), fitted(initialisation="example"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_example_of_weight_zero_is_as_if_it_were_not_there(float64):
    states, labels = drawn(0)
    kept = np.arange(40) < 28
    arrays = jnp.asarray(states), jnp.asarray(labels)
    policy = Policy(per_class=2)
    whole = fit_prototypes(jax.random.key(0), *arrays, jnp.asarray(kept, float), 0.5, classes=4, policy=policy)
    part = fit_prototypes(jax.random.key(0), *(one[:28] for one in arrays), jnp.ones(28), 0.5, classes=4, policy=policy)
    np.testing.assert_array_equal(whole.active, part.active)
    np.testing.assert_allclose(whole.points, part.points, rtol=1e-6, atol=1e-6)


def test_the_objective_is_its_closed_form_and_steps_lower_it(float64):
    states, labels = drawn(1)
    states, labels, weights = jnp.asarray(states), jnp.asarray(labels), jnp.ones(40)
    policy = Policy(diversity=0.0, per_class=1)
    start = fit_prototypes(
        jax.random.key(0), states, labels, weights, 0.0, classes=4, policy=Policy(steps=0, per_class=1)
    )
    moved = start._replace(points=start.points + 0.01, log_weight=start.log_weight + 0.1)
    found = class_log_probabilities(moved, states, 4)
    variance = float(variance_of(states, weights))
    expected = -np.mean(np.asarray(found)[np.arange(40), labels])
    expected += 0.3 / 2 * (20 * 0.01**2 / variance**2 + 4 * 0.1**2) / 40
    value = objective(moved, start, found, labels, weights, policy)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    done = fit_prototypes(jax.random.key(0), states, labels, weights, 0.0, classes=4, policy=policy)
    lowered, before = (
        objective(store, start, class_log_probabilities(store, states, 4), labels, weights, policy)
        for store in (done, start)
    )
    assert lowered < before


def test_the_penalty_parts_prototypes():
    _, labels = corners()
    near = store_of(np.float32([[0.45, 0.5], [0.55, 0.5]]), [0, 1], 0.02)
    values = [
        objective(near, near, jnp.zeros((80, 2)), jnp.asarray(labels), jnp.ones(80), Policy(diversity=b, margin=2.0))
        for b in (0.0, 1.0)
    ]
    assert values[0] == 0 < values[1]


@pytest.mark.parametrize(
    "wrong",
    [{"per_class": 0}, {"width": 0.0}, {"initialisation": "random"}, {"passes": 0}, {"margin": -1.0}],
)
def test_policies_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)
