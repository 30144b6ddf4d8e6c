"""What the notebook of PDS says holds, at a size that takes two minutes."""

import pytest

from tests.notebooks import execute_apart

SIZES = {"share_of_text": 0.15, "proxy_steps": 60, "proxy_set": 768, "opened": 64, "opened_steps": 12, "steps": 100}


@pytest.mark.slow
def test_its_cells_run_and_what_they_claim_is_seen():
    names, shown = execute_apart("pds", ("measured", "predicted", "metrics"), SIZES)
    assert names["measured"] == pytest.approx(names["predicted"], rel=0.05)
    assert names["metrics"]["scorer_spearman"] > 0.5
    final = names["metrics"]["final_target_loss"]
    assert final["pds"][0] < final["random"][0] - 0.1
    assert "J falls by" in shown and "best:" in shown
