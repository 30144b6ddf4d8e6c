"""Bad embeddings, labels and weights: each an error that says which row or class."""

import warnings

import numpy as np
import pytest

from pmpjax.prototypes.fine_tuning.checks import DuplicateWarning, checked_class_weights, checked_data, checked_states
from tests.prototypes.fine_tuning.test_store import drawn


def test_embeddings_that_are_none_are_refused():
    states, _ = drawn(0)
    for wrong, message in (
        (states[0], r"shape \[5\]"),
        (np.zeros((0, 3)), "one text at least"),
        (["a text"], "embed texts first"),
        (np.where(np.eye(40, 5) > 0, np.nan, states), "5 of 40 embeddings, the first of them row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_states(wrong)
    with pytest.raises(ValueError, match="5 coordinates, 7 were fitted"):
        checked_states(states, 7)


def test_labels_that_do_not_fit_are_refused():
    states, labels = drawn(0)
    for given, message in (
        (labels[:-1], r"\[39\] for 40 embeddings"),
        (np.zeros(40), "1 class, expected two"),
        (np.where(labels == 2, np.nan, labels), "row 2 is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_data(states, given)
    with pytest.raises(ValueError, match="class 9 has no example"):
        checked_data(states, labels, [0, 1, 2, 3, 9])
    with pytest.raises(ValueError, match="label 3 is none of the classes"):
        checked_data(states, labels, [0, 1, 2])
    with pytest.raises(ValueError, match="41 classes, but 40 examples"):
        checked_data(states, labels, range(41))
    with pytest.raises(ValueError, match="all equal"):
        checked_data(np.ones((4, 2)), [0, 1, 0, 1])


def test_copies_are_warned_of_and_share_a_group():
    states, labels = drawn(0, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(np.unique(checked_data(states, labels).groups)) == 8
    states[[4, 5]] = states[0]
    with pytest.warns(DuplicateWarning, match="2 of 8 embeddings repeat an earlier one, 1 of them with another label"):
        data = checked_data(states, labels)
    assert data.groups[0] == data.groups[4] == data.groups[5]


def test_class_weights():
    states, _ = drawn(0, 8)
    data = checked_data(states, np.asarray(["a", "b", "c", "c", "a", "c", "c", "c"]))
    np.testing.assert_allclose(checked_class_weights(None, data), 1.0)
    balanced = checked_class_weights("balanced", data)
    sums = [balanced[data.labels == c].sum() for c in range(3)]
    np.testing.assert_allclose(sums, 8 / 3, rtol=1e-6)
    mapped = checked_class_weights({"b": 3.0}, data)
    assert mapped[1] == pytest.approx(3 * mapped[0]) and mapped.mean() == pytest.approx(1.0)
    for wrong, message in (("even", "'even'"), ({"z": 1.0}, "names 'z'"), ({"a": 0.0}, "class_weight of a is 0.0")):
        with pytest.raises(ValueError, match=message):
            checked_class_weights(wrong, data)
