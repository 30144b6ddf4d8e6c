"""Methods compared at equal budgets: paired differences, costs, the table."""

import numpy as np
import pytest

from pmpjax.pds.compare import comparison, comparison_table, selection_costs
from pmpjax.pds.stages.evaluate import EvaluateConfig, build_evaluate, load_evaluation

STEPS = np.arange(0, 401, 20)


def straight(falls):
    """{(method, seed): curves} that fall by `falls[method][seed]` in all."""
    return {
        (name, seed): {"steps": STEPS, **{split: 6 - STEPS * fall / 400 for split in ("test", "dev")}}
        for name, per_seed in falls.items()
        for seed, fall in enumerate(per_seed)
    }


def test_baselines_are_compared_and_leave_verdict_and_speed_ups_as_they_are(tmp_path):
    pair = {"pds": [2.0, 2.2, 2.1], "random": [1.0, 1.0, 1.0]}
    for folder, falls in ((tmp_path / "two", pair), (tmp_path / "all", {"dsir": [1.6, 2.4, 0.5], **pair})):
        folder.mkdir()
        build_evaluate(EvaluateConfig(), straight(falls), "pds", folder)
    two, everything = load_evaluation(tmp_path / "two"), load_evaluation(tmp_path / "all")
    for name in ("speedup", "steps_needed", "verdict"):
        assert everything[name] == two[name]
    assert "arms" not in two and "difference" not in two
    assert everything["arms"]["dsir"]["speedup"]["test"] == [pytest.approx(1.6), pytest.approx(2.4), None]
    assert everything["difference"]["test"]["dsir"]["values"] == pytest.approx([-0.4, 0.2, -1.6])
    low, high = everything["difference"]["test"]["random"]["interval"]
    assert low < -1.1 < high < 0

    stages = {name: {"flops": 10.0} for name in ("proxy", "solve", "fit", "score")}
    stages["baselines"] = {"methods": {"dsir": {"seconds": 3.0, "flops": 0.0}}}
    costs = selection_costs("pds", stages, dict.fromkeys(stages, 2.0))
    assert costs["pds"] == {"seconds": 8.0, "flops": 40.0} and costs["dsir"] == {"seconds": 3.0, "flops": 0.0}
    table = comparison("pds", everything, costs)
    assert list(table) == ["pds", "dsir", "random"]  # by the mean final loss
    assert table["pds"]["difference"] is None and table["pds"]["mean"] == pytest.approx(6 - 2.1)
    assert {len(row) for row in comparison_table(table)} == {6}


def test_a_receding_horizon_is_compared_with_every_method(tmp_path):
    falls = {"pds": [2.0, 2.2], "random": [1.0, 1.0], "pds-receding": [2.5, 2.3]}
    build_evaluate(EvaluateConfig(), straight(falls), "pds", tmp_path)
    found = comparison("pds", load_evaluation(tmp_path), {name: {"seconds": 1.0, "flops": 1.0} for name in falls})
    assert found["random"]["receding_difference"]["values"] == pytest.approx([-1.5, -1.3])
    assert found["pds"]["receding_difference"]["mean"] == pytest.approx(-0.3)
    assert found["pds-receding"]["receding_difference"] is None
    header, *rows = comparison_table(found)
    column = header.index("PDS, receding, minus it")
    assert [row[0] for row in rows] == ["PDS, receding horizon", "PDS", "random"]
    assert [row[column].split()[0] if row[column] else "" for row in rows] == ["", "-0.3000", "-1.4000"]
