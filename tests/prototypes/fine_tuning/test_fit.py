"""Fitting whole: modes are found, bits repeat, weights count, principles can be switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from pmpjax.prototypes.fine_tuning.fit import Policy, fit_prototypes, objective, variance_of
from pmpjax.prototypes.fine_tuning.store import class_log_probabilities
from tests.prototypes.fine_tuning.test_store import drawn, store_of

CORNERS = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])


def corners(seed=0, number=80):
    """Two classes, each at two opposite corners: no linear head tells them apart."""
    generator = np.random.default_rng(seed)
    place = np.arange(number) % 4
    return np.float32(CORNERS[place] + 0.1 * generator.normal(size=(number, 2))), place // 2


def fitted(alpha=0.5, **policy):
    """Two prototypes a class at most; without L-BFGS, whose compilation takes most of a fit's time."""
    states, labels = corners()
    arrays = jnp.asarray(states), jnp.asarray(labels), jnp.ones(len(labels))
    policy = Policy(**({"per_class": 2, "passes": 3, "steps": 0} | policy))
    return fit_prototypes(jax.random.key(0), *arrays, alpha, classes=2, policy=policy)


def accuracy(store):
    states, labels = corners(1)
    return float(np.mean(class_log_probabilities(store, jnp.asarray(states), 2).argmax(axis=1) == labels))


def test_modes_are_found_and_without_creation_they_are_not():
    store = fitted()
    assert store.active.sum() == 4 and accuracy(store) == 1.0
    assert fitted(0.0).active.sum() == 2 and fitted(per_class=1).active.sum() == 2 and accuracy(fitted(0.0)) < 0.8


def test_without_refinement_prototypes_stay_where_they_were_made():
    states, labels = corners()
    made = fitted(refine=False)
    means = [states[labels == c].mean(axis=0) for c in range(2)]
    np.testing.assert_allclose(made.points[:2], means, atol=1e-6)
    own = np.isclose(np.asarray(made.points)[2:, None], states[None], atol=1e-6)
    assert made.active.all() and own.all(axis=2).any(axis=1).all()


def test_example_initialisation_begins_at_examples_and_creates_as_many_prototypes():
    """At this concentration a threshold by the spread of examples, not of class means, would create none."""
    states, labels = corners()
    start = np.asarray(fitted(0.0, initialisation="example", refine=False).points)[:2]
    assert all((start[c] == states[labels == c]).all(axis=1).any() for c in range(2))
    assert fitted(2e-4).active.sum() == fitted(2e-4, initialisation="example").active.sum() == 4
    lone = fitted(0.0, initialisation="example")
    np.testing.assert_allclose(lone.points[:2], fitted(0.0).points[:2], atol=1e-6)


def test_the_same_key_gives_the_same_bits():
    for one, other in zip(fitted(initialisation="example"), fitted(initialisation="example"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_example_of_weight_zero_is_as_if_it_were_not_there(float64):
    states, labels = drawn(0)
    kept = np.arange(40) < 28
    arrays = jnp.asarray(states), jnp.asarray(labels)
    policy = Policy(per_class=2, steps=0)
    whole = fit_prototypes(jax.random.key(0), *arrays, jnp.asarray(kept, float), 0.5, classes=4, policy=policy)
    part = fit_prototypes(jax.random.key(0), *(one[:28] for one in arrays), jnp.ones(28), 0.5, classes=4, policy=policy)
    np.testing.assert_array_equal(whole.active, part.active)
    assert part.active.sum() > 4
    np.testing.assert_allclose(whole.points, part.points, rtol=1e-9, atol=1e-9)


def test_the_objective_is_its_closed_form(float64):
    states, labels = drawn(1)
    weights = np.random.default_rng(0).uniform(0.0, 2.0, 40) * (np.arange(40) % 5 > 0)
    arrays = jnp.asarray(states), jnp.asarray(labels), jnp.asarray(weights)
    start = store_of(np.eye(4, 5), range(4), 0.4, free=2)
    moved = start._replace(points=start.points + 0.01, log_weight=start.log_weight + 0.1)
    found = class_log_probabilities(moved, arrays[0], 4)
    expected = -weights @ np.asarray(found)[np.arange(40), labels] / weights.sum()
    expected += 0.3 / 2 * (20 * 0.01**2 / 0.4**2 + 4 * 0.1**2) / weights.sum()
    value = jax.jit(objective, static_argnums=5)(moved, start, found, *arrays[1:], Policy(diversity=0.0))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_steps_lower_the_objective_and_move_nothing_else():
    """With a label in five wrong, what expectation and maximisation find is no optimum of the objective."""
    states, labels = corners()
    labels = np.where(np.arange(80) % 5 == 0, 1 - labels, labels)
    arrays = jnp.asarray(states), jnp.asarray(labels), jnp.ones(80)
    start, done = (
        fit_prototypes(jax.random.key(0), *arrays, 0.5, classes=2, policy=Policy(per_class=2, passes=3, steps=steps))
        for steps in (0, 5)
    )
    value = jax.jit(objective, static_argnums=5)
    lowered, before = (
        value(store, start, class_log_probabilities(store, arrays[0], 2), *arrays[1:], Policy())
        for store in (done, start)
    )
    assert lowered < before - 0.1
    np.testing.assert_array_equal(done.active, start.active)
    np.testing.assert_array_equal(done.classes, start.classes)


def test_the_width_is_a_share_of_the_mean_squared_distance(float64):
    states, _ = drawn(0)
    expected = 0.2 * ((states - states.mean(axis=0)) ** 2).sum(axis=1).mean()
    found = variance_of(jnp.asarray(states), jnp.ones(40), Policy(width=0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_penalty_parts_prototypes():
    _, labels = corners()
    near = store_of(np.float32([[0.45, 0.5], [0.55, 0.5]]), [0, 1], 0.02)
    value = jax.jit(objective, static_argnums=5)
    values = [
        value(near, near, jnp.zeros((80, 2)), jnp.asarray(labels), jnp.ones(80), Policy(diversity=b, margin=2.0))
        for b in (0.0, 1.0)
    ]
    assert values[0] == 0 < values[1]


@pytest.mark.parametrize(
    "wrong",
    [{"per_class": 0}, {"width": 0.0}, {"initialisation": "random"}, {"passes": 0}, {"margin": -1.0}],
)
def test_policies_without_meaning_are_refused(wrong):
    # "random" is refused by the type checker of the tests before the policy's own check sees it.
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):
        Policy(**wrong)
