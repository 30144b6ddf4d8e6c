"""The three limits of prototypes, and what empty slots, heads and the penalty do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.neighbors import KNeighborsClassifier

from pmpjax.prototypes.fine_tuning.growth import class_means, from_points
from pmpjax.prototypes.fine_tuning.store import (
    HIDDEN,
    Head,
    Prototypes,
    class_log_probabilities,
    diversity,
    logits,
    margin_of,
    own_responsibilities,
)
from pmpjax.prototypes.fine_tuning.trained import linear_head


def drawn(seed, number=40, width=5, classes=4):
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    return generator.normal(size=(number, width)) + 2 * np.eye(classes, width)[labels], labels


def store_of(points, classes, variance, free=0):
    points = jnp.concatenate([jnp.asarray(points), jnp.full((free, points.shape[1]), 7.0)])
    active = jnp.arange(len(points)) < len(points) - free
    numbers = jnp.concatenate([jnp.asarray(classes), jnp.zeros(free, int)])
    return Prototypes(points, numbers, active, jnp.zeros(len(points)), jnp.log(jnp.asarray(variance)))


def test_one_prototype_a_class_is_the_prototypical_network(float64):
    states, labels = drawn(0)
    points = class_means(jnp.asarray(states), jnp.asarray(labels), jnp.ones(40), 4)
    found = class_log_probabilities(from_points(points, jnp.asarray(0.5), 9), jnp.asarray(states), 4)
    means = np.stack([states[labels == c].mean(axis=0) for c in range(4)])
    expected = log_softmax(-((states[:, None] - means) ** 2).sum(axis=2) / (2 * 0.5), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_one_prototype_a_class_is_a_linear_head_at_any_variance(float64):
    states, labels = drawn(1)
    points = class_means(jnp.asarray(states), jnp.asarray(labels), jnp.ones(40), 4)
    for variance in (0.3, 30.0, 3e6):
        store = from_points(points, jnp.asarray(variance), 4)
        head = linear_head(store)
        expected = log_softmax(states @ np.asarray(head.weights).T / variance + np.asarray(head.bias), axis=1)
        np.testing.assert_allclose(class_log_probabilities(store, jnp.asarray(states), 4), expected, atol=1e-12)


def test_fixed_prototypes_of_wide_variance_are_a_linear_head(float64):
    """log p(a) - log p(b) -> <h, mean p_a - mean p_b> / sigma + const, with an error of order 1 / sigma^2."""
    states, labels = drawn(2)
    variance = 1e7
    found = class_log_probabilities(store_of(states, labels, variance), jnp.asarray(states), 4)
    means = np.stack([states[labels == c].mean(axis=0) for c in range(4)])
    squares = np.stack([(states[labels == c] ** 2).sum(axis=1).mean() for c in range(4)])
    expected = log_softmax((states @ means.T - squares / 2) / variance, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_soft_predictions_of_narrow_prototypes_are_a_linear_head(float64):
    states, labels = drawn(3)
    generator = np.random.default_rng(0)
    head = Head(jnp.asarray(generator.normal(size=(5, 3))), jnp.asarray(generator.normal(size=3)))
    found = class_log_probabilities(store_of(states, labels, 1e-6), jnp.asarray(states), 3, head)
    expected = log_softmax(states @ np.asarray(head.kernel) + np.asarray(head.bias), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_prototype_at_every_example_is_one_nearest_neighbour(float64):
    states, labels = drawn(4)
    fresh = drawn(5)[0]
    found = jnp.exp(class_log_probabilities(store_of(states, labels, 1e-6), jnp.asarray(fresh), 4))
    nearest = KNeighborsClassifier(1).fit(states, labels).predict(fresh)
    np.testing.assert_allclose(found, np.eye(4)[nearest], atol=1e-12)


def test_several_prototypes_of_a_class_add_up_and_free_slots_do_not_count(float64):
    states, labels = drawn(6, 12)
    store = store_of(states, labels, 0.7, free=5)
    found = class_log_probabilities(store, jnp.asarray(states), 4)
    densities = -((states[:, None] - states[None]) ** 2).sum(axis=2) / 1.4
    expected = np.stack([logsumexp(densities[:, labels == c], axis=1) for c in range(4)], axis=1)
    np.testing.assert_allclose(found, log_softmax(expected, axis=1), rtol=1e-12)
    assert (jax.jit(logits)(store, jnp.asarray(states))[:, -5:] == HIDDEN).all()
    shares = jax.jit(own_responsibilities)(store, jnp.asarray(states), jnp.asarray(labels))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert not shares[:, -5:].any() and not shares[0, 1]


def test_a_class_without_a_prototype_has_no_probability_and_gradients_stay_finite():
    states, labels = drawn(7, 8)
    store = store_of(np.float32(states), labels, 1e-3, free=2)
    far = jnp.asarray(states * 50, jnp.float32)
    found = class_log_probabilities(store, far, 6)
    assert (found[:, 4:] < -1e20).all() and np.isfinite(found).all()
    gradient = jax.jit(
        jax.grad(lambda points: class_log_probabilities(store._replace(points=points), far, 6)[:, :4].sum())
    )
    found = gradient(store.points)
    assert np.isfinite(found).all() and found[:-2].any() and not found[-2:].any()


def test_the_penalty_is_that_of_near_pairs(float64):
    points = np.array([[0.0, 0.0], [0.0, 0.3], [5.0, 0.0]])
    store = store_of(points, [0, 1, 2], 1.0, free=3)
    assert jax.jit(diversity)(store, jnp.asarray(1.0)) == pytest.approx(0.7**2 / 3, rel=1e-12)
    same = store_of(np.zeros((2, 2)), [0, 1], 1.0)
    gradient = jax.jit(jax.grad(lambda p: diversity(same._replace(points=p), jnp.asarray(1.0))))(same.points)
    assert not gradient.any()
    nearest = [0.3, 0.3, 5.0]
    assert jax.jit(margin_of, static_argnums=1)(store, 0.5) == pytest.approx(0.5 * np.median(nearest))
    assert jax.jit(margin_of, static_argnums=1)(store_of(points[:1], [0], 1.0, free=2), 0.5) == 0
