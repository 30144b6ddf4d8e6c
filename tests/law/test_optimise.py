"""The history of an optimisation: what is not defined stays so when it is stored or cut; `test_experiment` resumes."""

import numpy as np

from pmpjax.law.optimise import History


def test_a_history_is_the_same_after_storing_and_what_is_not_defined_is_none():
    history = History()
    history.add({"sweep": 1.0, "acceleration_ratio": None}, {"dev": np.array([3.0, 2.0])})
    history.add({"sweep": 2.0, "acceleration_ratio": 4.5}, {})
    arrays = history.arrays()
    assert np.isnan(arrays["acceleration_ratio"][0]) and arrays["dev"].shape == (1, 2)
    again = History.of(arrays)
    assert again.rows == history.rows and len(again) == 2
    np.testing.assert_array_equal(again.curves["dev"], history.curves["dev"])
    first = history.first(1, 1)
    assert first.rows == {"sweep": [1.0], "acceleration_ratio": [None]} and len(first.curves["dev"]) == 1
