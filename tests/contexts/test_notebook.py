"""What the notebook of contexts says holds, at a size that takes half a minute."""

import numpy as np
import pytest

from tests.notebooks import execute_apart
from tests.pretrained import needs_models

SIZES = {
    "pool": 8,
    "wrong": 2,
    "labelled": 2,
    "asked": 4,
    "random_choices": 2,
    "numbers_of_groups": [1, 2],
    "asked_of_groups": 8,
    "compared": 4,
    "rates": [0.003, 0.03],
}


@pytest.mark.slow
@needs_models
def test_its_cells_run_and_what_they_claim_is_seen():
    names, shown = execute_apart("contexts", ("difference", "accuracy", "metrics", "found", "losses"), SIZES)
    assert names["difference"] < 1e-12
    total, by_layer, *_ = names["found"]
    assert np.isfinite(total).all() and np.shape(by_layer) == (30, 8)
    assert names["losses"][0] < names["losses"][1]  # the best choice, the worst
    assert [len(values) for values in names["accuracy"].values()] == [2, 2]
    assert names["accuracy"]["with log M"][0] == names["accuracy"]["without"][0]  # one group: log 1 = 0
    controls = {"SimAOU, untrained", "SimAOU, shuffled", "SimAOU, position-matched", "SimAOU, layer-causal"}
    assert controls <= names["metrics"]["overall"].keys()
    assert "largest relative difference" in shown and "SimAOU, random" in shown
