"""Calibrated classes: what a bias, a constant or another start may not change, scikit-learn's tools, bad scores."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from pmpjax.prototypes import Calibrator, DoubtfulClassWarning
from pmpjax.prototypes.calibration import _second
from pmpjax.prototypes.mixture import fit_from_many_starts, log_densities
from pmpjax.runs.precision import double_precision

BIAS = np.array([4.0, 0.0, -1.0])


def drawn(seed=0, count=300, bias=BIAS, counts=None):
    """Scores that know the class, under a bias towards one label word."""
    draw = np.random.default_rng(seed)
    classes = len(bias)
    labels = np.repeat(np.arange(classes), counts) if counts is not None else np.arange(count) % classes
    return 3.0 * np.eye(classes)[labels] + 0.7 * draw.normal(size=(len(labels), classes)) + bias, labels


def calibrator(method="prototypical", **options):
    return Calibrator(method, **{"starts": 8, **options})


@pytest.mark.parametrize("method", ["batch", "prototypical", "supervised", "contextual"])
def test_a_bias_towards_a_word_is_undone(method):
    (x, y), (test, labels) = drawn(0), drawn(1)
    assert np.mean(calibrator("argmax").fit(x).predict(test) == labels) < 0.6
    found = calibrator(method).fit(x, y if method == "supervised" else None, content_free=BIAS)
    best = np.mean(np.argmax(test - BIAS, axis=1) == labels)
    # The mean of probabilities that a strong bias has flattened corrects it in part.
    assert found.score(test, labels) > best - (0.2 if method == "batch" else 0.03)
    np.testing.assert_allclose(found.predict_proba(test).sum(axis=1), 1)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_a_constant_shift_leaves_the_partition(covariance):
    """Every mean and every sum of an assignment moves by the same constant. Exact where the words' scores are not
    normalised over the classes, hence on the clusters themselves."""
    x, _ = drawn()
    with double_precision():
        found = []
        for shift in (0.0, np.array([5.0, -3.0, 0.5])):
            fit = fit_from_many_starts(jax.random.key(0), jnp.asarray(x + shift), 3, 1, covariance, steps=5)
            mixture = jax.tree.map(lambda part: part[0], fit.mixture)
            chosen = linear_sum_assignment(-np.asarray(mixture.means))[1]
            found.append((np.asarray(mixture.means) - shift, chosen, log_densities(mixture, jnp.asarray(x + shift))))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-9)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-8)


def test_the_start_of_greatest_assignment_is_kept():
    x, y = drawn(2, count=60)
    found = calibrator(starts=20).fit(x, y)
    assert found.assignment_score_ == np.nanmax(found.run_scores_)
    assert found.run_accuracies_.shape == (20,) and np.nanmax(found.run_accuracies_) <= 1
    best = int(np.nanargmax(found.run_scores_))
    assert found.run_accuracies_[best] == pytest.approx(found.score(x, y))
    again = calibrator(starts=20).fit(x, y)
    np.testing.assert_array_equal(found.run_scores_, again.run_scores_)


def test_neither_the_last_start_nor_the_likeliest_is_kept():
    x, _ = drawn(11, count=60)
    found = calibrator(starts=20).fit(x)
    best, likeliest = int(np.nanargmax(found.run_scores_)), int(np.nanargmax(found.run_log_likelihoods_))
    assert best not in (19, likeliest)
    assert found.run_scores_[best] > max(found.run_scores_[19], found.run_scores_[likeliest]) + 0.05
    assert found.run_log_likelihoods_[best] < found.run_log_likelihoods_[likeliest] - 0.05


def test_the_margin_is_that_over_all_permutations():
    means = np.random.default_rng(0).normal(size=(5, 5))
    sums = sorted((sum(means[range(5), p]), p) for p in itertools.permutations(range(5)))
    assert _second(means, np.asarray(sums[-1][1])) == pytest.approx(sums[-2][0])


def test_a_class_without_texts_is_doubted():
    """Two of four classes absent: their clusters share the texts of the others."""
    x, _ = drawn(3, bias=np.zeros(4), counts=[150, 150, 0, 0])
    with pytest.warns(DoubtfulClassWarning):
        found = calibrator().fit(x)
    assert len(found.doubtful_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = calibrator().fit(drawn(3, bias=np.zeros(4))[0])
    assert not len(whole.doubtful_)


def test_the_supervised_fit_is_the_minimum():
    """With one common scale the model is logistic regression of the log-probabilities; here: no gradient is left."""
    x, y = drawn(4)
    found = calibrator("supervised", penalty=1e-3).fit(x, y)
    own = found.predict_log_proba(x)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    error = np.exp(own) - np.eye(3)[y]
    np.testing.assert_allclose((error * log_p).mean(0) + 2e-3 * (found.scale_ - 1), 0, atol=1e-6)
    np.testing.assert_allclose(error.mean(0) + 2e-3 * found.shift_, 0, atol=1e-6)
    peer = LogisticRegression(C=1e3).fit(log_p, y)
    assert abs(found.score(x, y) - peer.score(log_p, y)) < 0.02


def test_scikit_learns_tools_work():
    x, y = drawn(5)
    names = np.array(["earth", "fire", "water"])[y]
    search = GridSearchCV(calibrator(), {"method": ["argmax", "batch", "supervised"]}, cv=3).fit(x, names)
    assert search.best_params_["method"] in ("batch", "supervised") and set(search.predict(x)) == set(names)
    copy = clone(calibrator(covariance="tied", seed=3))
    assert copy.get_params()["covariance"] == "tied" and not hasattr(copy, "classes_")


def test_impossible_words_are_counted_not_spread():
    x, _ = drawn(6)
    x[::7, 2] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulClassWarning)  # these texts are a cluster of their own
        found = calibrator().fit(x)
    assert found.clipped_ == len(x[::7]) and np.isfinite(found.predict_proba(x)).all()


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        (np.zeros((2, 3)), "2 texts for 3 classes"),
        (np.zeros((5, 1)), "shape"),
        (np.full((5, 2), np.nan), "row 0"),
        (np.full((5, 2), -np.inf), "row 0"),
        (np.zeros(5), "shape"),
    ],
)
def test_bad_scores_are_named(scores, named):
    with pytest.raises(ValueError, match=named):
        calibrator().fit(scores)


def test_bad_labels_and_options_are_named():
    x, y = drawn()
    for options, arguments, named in (
        ({"method": "contextual"}, {}, "content_free"),
        ({"method": "contextual"}, {"content_free": [0.0, 1.0]}, "2 classes"),
        ({"method": "supervised"}, {}, "labels"),
        ({}, {"y": y[:-1]}, "299 labels for 300"),
        ({}, {"y": np.minimum(y, 1)}, "2 classes, scores of 3"),
    ):
        with pytest.raises(ValueError, match=named):
            calibrator(**options).fit(x, **arguments)
    with pytest.raises(ValueError, match="2 classes, 3 were"):
        calibrator("batch").fit(x).predict(x[:, :2])


def test_equal_scores_have_no_margin():
    """Texts that the model cannot tell apart: the covariance keeps its floor, and nothing is claimed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulClassWarning)
        found = calibrator(starts=2).fit(np.zeros((20, 3)))
    assert found.assignment_margin_ == pytest.approx(0, abs=1e-9)
