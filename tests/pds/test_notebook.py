"""The notebook is its percent-format source, and what it says holds."""

import pytest

from tests.notebooks import FOLDER, execute_apart, notebook


def test_the_notebook_is_its_source():
    assert (FOLDER / "pds.ipynb").read_text(encoding="utf-8") == notebook("pds")


@pytest.mark.slow
def test_its_cells_run_and_what_they_claim_is_seen():
    names, shown = execute_apart("pds", ("measured", "predicted", "metrics"))
    assert names["measured"] == pytest.approx(names["predicted"], rel=0.05)
    assert names["metrics"]["scorer_spearman"] > 0.5
    final = names["metrics"]["final_target_loss"]
    assert final["pds"][0] < final["random"][0] - 0.1
    assert "J falls by" in shown and "best:" in shown
