"""Creation, refinement and pruning against closed forms and scikit-learn."""

import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture

from pmpjax.prototypes.fine_tuning.growth import created, creation_threshold, from_points, refined, spread_of
from tests.prototypes.fine_tuning.test_store import drawn, store_of


def test_the_threshold_is_that_of_infinite_mixture_prototypes(float64):
    store = from_points(jnp.asarray([[0.0, 0.0], [2.0, 4.0]]), jnp.asarray(0.5), 5)
    spread = spread_of(store)
    assert spread == (1.0 + 4.0) / 2
    expected = -2 * 0.5 * np.log(0.1) + 2 * 0.5 * np.log(1 + 2.5 / 0.5)
    np.testing.assert_allclose(creation_threshold(store, spread, 0.1), expected, rtol=1e-12)
    assert creation_threshold(store, spread, 0.0) == np.inf


def pairs():
    """Class 0 lies at two places, class 1 at one."""
    states = np.array([[0.0, 0.0], [0.1, 0.0], [4.0, 0.0], [4.1, 0.0], [0.0, 9.0], [0.1, 9.0]])
    return jnp.asarray(states), jnp.asarray([0, 0, 0, 0, 1, 1])


def test_a_wide_class_is_split_and_a_narrow_one_is_not(float64):
    states, labels = pairs()
    store = from_points(jnp.asarray([[2.05, 0.0], [0.05, 9.0]]), jnp.asarray(0.1), 4)
    store = created(store, states, labels, jnp.ones(6), jnp.asarray(1.0))
    assert store.active.tolist() == [True, True, True, False] and store.classes[2] == 0
    store = refined(store, states, labels, jnp.ones(6), 0.0, passes=3)
    np.testing.assert_allclose(sorted(store.points[[0, 2], 0].tolist()), [0.05, 4.05], atol=1e-9)
    np.testing.assert_allclose(store.log_weight[:3], np.log([0.5, 1.0, 0.5]), atol=1e-9)


def test_nothing_is_created_without_a_slot_below_the_threshold_or_for_weightless_examples():
    states, labels = pairs()
    full = from_points(jnp.asarray([[2.05, 0.0], [0.05, 9.0]]), jnp.asarray(0.1), 2)
    assert created(full, states, labels, jnp.ones(6), jnp.asarray(0.0)).active.sum() == 2
    free = from_points(full.points, jnp.asarray(0.1), 4)
    assert created(free, states, labels, jnp.ones(6), jnp.asarray(jnp.inf)).active.sum() == 2
    assert created(free, states, labels, jnp.asarray([0.0] * 4 + [1.0] * 2), jnp.asarray(1.0)).active.sum() == 2


def test_with_share_one_the_farthest_example_becomes_a_prototype():
    states, labels = pairs()
    store = from_points(jnp.asarray([[1.0, 0.0], [0.05, 9.0]]), jnp.asarray(0.1), 4)
    found = created(store, states, labels, jnp.ones(6), jnp.asarray(1.0), share=1.0)
    np.testing.assert_array_equal(found.points[2], states[3])
    np.testing.assert_array_equal(found.points[0], store.points[0])


def test_refinement_is_expectation_and_maximisation(float64):
    """One class, equal variances: the means of scikit-learn's mixture after one step with that precision."""
    states, _ = drawn(0, 30)
    start = states[:3]
    store = refined(
        store_of(start, [0, 0, 0], 0.8), jnp.asarray(states), jnp.zeros(30, int), jnp.ones(30), 0.0, passes=1
    )
    peer = GaussianMixture(3, covariance_type="spherical", weights_init=np.ones(3) / 3, means_init=start)
    peer.precisions_cholesky_ = np.full(3, 0.8**-0.5)
    peer.weights_, peer.means_, peer.covariances_ = np.ones(3) / 3, start, np.full(3, 0.8)
    shares = peer.predict_proba(states)
    np.testing.assert_allclose(store.points, shares.T @ states / shares.sum(axis=0)[:, None], rtol=1e-12)
    np.testing.assert_allclose(np.exp(store.log_weight), shares.mean(axis=0), rtol=1e-12)


def test_small_prototypes_are_dropped_but_no_class_loses_its_last():
    states, labels = pairs()
    points = np.array([[0.05, 0.0], [4.05, 0.0], [50.0, 0.0], [0.05, 9.0]])
    store = store_of(np.float32(points), [0, 0, 0, 1], 0.1)
    found = refined(store, states, labels, jnp.ones(6), 1.0, passes=2)
    assert found.active.tolist() == [True, True, False, True]
    found = refined(store, states, labels, jnp.ones(6), 100.0, passes=4)
    assert found.active.sum() == 2 and set(found.classes[found.active].tolist()) == {0, 1}
