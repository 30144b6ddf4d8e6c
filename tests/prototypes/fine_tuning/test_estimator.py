"""The estimator as scikit-learn's users know estimators: choice of capacity, probabilities, explanations, classes."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from tests.prototypes.fine_tuning.test_fit import CORNERS, corners
from tests.prototypes.fine_tuning.test_store import drawn

FAST = Policy(per_class=2, steps=5, passes=3)
PLAIN = Policy(per_class=2, steps=0, passes=3)
"""Without L-BFGS, whose compilation for another shape takes seconds."""


@pytest.fixture(scope="module")
def model():
    states, labels = corners()
    return PrototypeClassifier(policy=FAST).fit(states, np.array(["even", "odd"])[labels])


def test_capacity_is_chosen_by_held_out_loss(model):
    assert model.n_prototypes_.tolist() == [2, 2] and len(model.levels_) == 4
    assert model.levels_[0].loss > 0.3 > min(level.loss for level in model.levels_)
    assert model.predict(CORNERS).tolist() == ["even", "even", "odd", "odd"]
    np.testing.assert_allclose(model.predict_proba(CORNERS).sum(axis=1), 1.0)
    assert model.score(corners(1)[0], np.array(["even", "odd"])[corners(1)[1]]) == 1.0
    again = clone(model).fit(corners()[0], np.array(["even", "odd"])[corners()[1]])
    np.testing.assert_array_equal(again.predict_proba(CORNERS), model.predict_proba(CORNERS))


class Counted:
    total = 0.0

    def update(self, advance=1, **fields):
        self.total += advance


def test_the_bar_is_at_100_when_the_fit_is_done():
    states, labels = corners()
    for settings in ({}, {"concentration": 0.0, "folds": 2}):
        bar = Counted()
        PrototypeClassifier(policy=PLAIN, **settings).fit(states, labels, bar=bar)
        assert bar.total == pytest.approx(100)


def test_one_example_a_class_is_the_nearest_mean_and_is_not_calibrated():
    states, labels = drawn(0, 4)
    found = PrototypeClassifier(policy=PLAIN).fit(states, labels)
    assert found.n_prototypes_.tolist() == [1] * 4 and not found.calibrated_ and found.temperature_ == 1.0
    assert found.predict(states).tolist() == labels.tolist() and found.levels_ == []


def test_copies_never_stand_on_both_sides_of_a_held_out_part():
    states, labels = drawn(0, 8)
    with pytest.warns(UserWarning, match="8 of 16 embeddings repeat"):
        found = PrototypeClassifier(policy=PLAIN).fit(np.tile(states, (2, 1)), np.tile(labels, 2))
    assert found.calibrated_
    with pytest.warns(UserWarning, match="repeat"):
        found = PrototypeClassifier(policy=PLAIN).fit(np.tile(states[:4], (3, 1)), np.tile(labels[:4], 3))
    assert not found.calibrated_


def test_grid_search_runs_over_it():
    states, labels = corners()
    search = GridSearchCV(PrototypeClassifier(policy=PLAIN), {"concentration": [0.0, 0.5]}, cv=2, refit=False)
    search.fit(states, labels)
    assert search.best_params_ == {"concentration": 0.5}


def test_nearest_examples_explain(model):
    near = model.nearest_examples(CORNERS, 3)
    squared = ((CORNERS[:, None] - model.examples_[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(near, np.argsort(squared, axis=1)[:, :3])
    classes = np.asarray(model.store_.classes)
    of_prototypes = model.prototype_examples(2)
    assert len(of_prototypes) == 4
    assert all((model.example_labels_[rows] == classes[slot]).all() for slot, rows in of_prototypes.items())
    with pytest.raises(ValueError, match="count is 0"):
        model.nearest_examples(CORNERS, 0)


def test_it_abstains_where_it_is_unsure(model):
    between = np.array([[0.5, 0.0], [0.0, 0.0]])
    assert model.abstained(between, 0.9).tolist() == [True, False]
    assert not model.abstained(between, 0.0).any()
    with pytest.raises(ValueError, match="threshold is 2"):
        model.abstained(between, 2.0)


def test_classes_are_added_and_deleted_and_nothing_else_moves():
    states, labels = corners()
    found = PrototypeClassifier(policy=FAST).fit(states, np.array(["even", "odd"])[labels])
    before, points = found.predict_proba(CORNERS), np.asarray(found.store_.points)
    with pytest.raises(ValueError, match="odd is there already"):
        found.add_class(states, "odd")
    found.add_class(np.random.default_rng(0).normal([5.0, 5.0], 0.1, (10, 2)), "far")
    assert found.classes_.tolist() == ["even", "far", "odd"] and found.n_prototypes_[0] == 2
    assert found.predict(np.array([[5.0, 5.0], [1.0, 0.0]])).tolist() == ["far", "odd"]
    np.testing.assert_array_equal(np.asarray(found.store_.points)[: len(points)], points)
    assert (found.example_labels_ == 1).sum() == 10
    found.delete_class("far")
    np.testing.assert_allclose(found.predict_proba(CORNERS), before, atol=1e-6)
    assert found.classes_.tolist() == ["even", "odd"] and len(found.examples_) == 80
    with pytest.raises(ValueError, match="no class far"):
        found.delete_class("far")
    with pytest.raises(ValueError, match="one of two"):
        found.delete_class("odd")


def test_temperature_can_be_fitted_to_what_nothing_has_seen(model):
    other = clone(model).fit(corners()[0], np.array(["even", "odd"])[corners()[1]])
    states, labels = corners(3)
    labels = np.array(["even", "odd"])[np.where(np.arange(80) % 5 == 0, 1 - labels, labels)]
    other.calibrate(states, labels)
    assert other.temperature_ > model.temperature_
    with pytest.raises(ValueError, match="label none was not fitted"):
        other.calibrate(states[:1], ["none"])


@pytest.mark.parametrize("wrong", [{"concentration": -1.0}, {"folds": 1}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrototypeClassifier(**wrong).fit(*corners())
