"""What the notebook of prototypes says holds, at a size that takes half a minute."""

import pytest

from tests.notebooks import execute_apart
from tests.pretrained import needs_models

SIZES = {"texts": 12, "shots": [1, 16], "tests": 8}


@pytest.mark.slow
@needs_models
def test_its_cells_run_and_what_they_claim_is_seen():
    wanted = ("areas", "accuracies", "curves", "counts")
    names, shown = execute_apart("prototypes", wanted, SIZES)
    for prompt, accuracies in names["accuracies"].items():
        assert names["areas"][prompt] > 0.8
        assert accuracies["argmax"] < 0.7 < accuracies["batch"]
    assert names["curves"]["prototypes"][1] > names["curves"]["prototypes"][0] > 2 / 16
    assert names["counts"][0] == 16  # one a class
    assert "prototypes\n" in shown and "threshold 0.9" in shown
