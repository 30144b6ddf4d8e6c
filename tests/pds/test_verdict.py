"""Evaluation and report: the sentence, the numbers and the page for curves whose answer is known."""

import dataclasses
import html

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.pds.origins import origin_shares
from pmpjax.pds.stages.evaluate import EvaluateConfig, build_evaluate, load_evaluation, verdict
from pmpjax.pds.stages.report import ReportConfig, build_report
from pmpjax.statistics import Speedup
from tests.pds.synthetic import prepared_corpus

STEPS = np.arange(0, 401, 20)


def curves(rates):
    """One seed a rate: the selected run learns `rate` times as fast as the random one."""
    fall = {("random", seed): 1.0 for seed in range(len(rates))} | {("pds", s): rate for s, rate in enumerate(rates)}
    return {
        key: {"steps": STEPS, "test": 6 - STEPS * rate / 200, "dev": 5 - STEPS * rate / 200, "train": np.zeros(400)}
        for key, rate in fall.items()
    }


def test_numbers_of_a_known_case(tmp_path):
    build_evaluate(EvaluateConfig(), curves([2.0, 4.0]), "pds", tmp_path)
    found = load_evaluation(tmp_path)
    assert found["speedup"]["test"] == pytest.approx([2, 4])
    assert found["speedup"]["dev"] == pytest.approx([2, 4])
    assert found["steps_needed"]["test"] == pytest.approx([200, 100])
    assert found["final_loss"]["test"]["random"] == pytest.approx([4, 4])
    assert found["final_loss"]["test"]["pds"] == pytest.approx([2, -2])
    assert "150 of 400 steps (3.00x" in found["verdict"] and "mean over 2 seeds" in found["verdict"]
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert (tmp_path / "curves").with_suffix(suffix).read_bytes().startswith(magic)


def test_final_losses_are_those_of_the_decay_branch_and_steps_of_the_constant_rate(tmp_path):
    found = curves([2.0, 4.0])
    for (method, seed), one in found.items():
        one["decayed_test"], one["decayed_dev"] = np.float32(3 - seed - (method == "pds")), np.float32(2)
    build_evaluate(EvaluateConfig(), found, "pds", tmp_path)
    result = load_evaluation(tmp_path)
    assert result["final_loss"]["test"] == {"pds": [2, 1], "random": [3, 2]}
    assert result["constant_rate_loss"]["test"]["random"] == pytest.approx([4, 4])
    assert result["speedup"]["test"] == pytest.approx([2, 4])


def test_a_selection_that_is_worse_is_said_to_be_worse(tmp_path):
    build_evaluate(EvaluateConfig(), curves([0.5]), "pds", tmp_path)
    found = load_evaluation(tmp_path)
    assert found["speedup"]["test"] == [None]
    assert "never reaches" in found["verdict"]


def test_a_seed_that_never_arrives_is_named():
    text = verdict([Speedup(100.0, 200, 2.0), Speedup(None, 200, None)])
    assert "1 of 2 seeds it never does" in text


def test_the_page_shows_texts_as_text_and_shares_that_add_up(tmp_path):
    prepared = prepared_corpus(tmp_path)
    texts = pq.read_table(prepared.documents.path).to_pydict()
    texts["text"][4] = "<script>alert('x')</script>"
    pq.write_table(pa.table(texts), prepared.documents.path)
    score = np.linspace(0, 1, len(prepared.documents.ids))
    score[4] = 9.0
    pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": score}), tmp_path / "scores.parquet")
    build_evaluate(EvaluateConfig(), curves([2.0]), "pds", tmp_path)
    selected = np.arange(0, 60, 2)
    shares = origin_shares(prepared.documents, selected)
    evaluation = load_evaluation(tmp_path)
    build_report(
        dataclasses.replace(ReportConfig(), documents=3),
        metrics(evaluation, shares),
        prepared.documents,
        tmp_path / "scores.parquet",
        selected,
        tmp_path / "curves.png",
        tmp_path,
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert evaluation["verdict"] in html.unescape(page) and "33.3%" in page and "they do not pay" in page
    assert "0.75, added for the score" in page and "(2 of 7 rows)" in page
    first_row = page[page.index('class="equal"') :].split("<tr>")[2]
    assert first_row.index("&lt;script&gt;") < first_row.index("</td><td>"), "the best document stands on the left"
    assert shares["docstring"]["selection"] == 1 and shares["code"]["selection"] == 0
    assert sum(share["source"] for share in shares.values()) == pytest.approx(1)


def metrics(evaluation, shares):
    """As `pmpjax.pds.summary.metrics_of` has them, with invented facts of the stages."""
    check = {"name": "gap", "value": 0.25, "tolerance": 0.01, "holds": False, "meaning": "Frank-Wolfe gap"}
    solve = {
        "costate_norms": [3.0, 2.0, 1.0],
        "area_under_curve": [10.0, 9.0],
        "health": "finite",
        "effective_instances": 7.5,
        "instances": 9,
        "conditions": {"first": [check], "last": [check | {"name": "consistency"}, check]},
        "preview": {"spearman": 0.75},
        "batch_estimator": {"met": 5, "spearman": 0.8, "slope": None, "residual": 0.5},
        "over_time": {"evaluated": 2, "spearman": 0.9, "deviation": 0.25},
    }
    fit = {
        "spearman": {"held_out": None, "train": 0.9},
        "rows": {"held_out": 2, "train": 7, "asked": 2},
        "final_mse": 0.5,
    }
    return {
        "verdict": evaluation["verdict"],
        "seeds": [0],
        "final_target_loss": evaluation["final_loss"]["test"],
        "origins": shares,
        "stage_seconds": {"fit": 2.0, "pretrain": 6.0},
        "stage_flops": {"fit": 1e12, "pretrain": 6e12},
        "stages": {"solve": solve, "fit": fit, "pretrain": {"runs": [{}, {}], "decay_steps": 0}},
        "selected_fraction": 0.5,
        "duplicates_removed": 1,
        "leaks_removed": 0,
        "rejected_rows": 3,
        "receding": {
            "extra_steps": 40.0,
            "steps": 360.0,
            "difference": {"values": [0.5], "mean": 0.5, "interval": None},
        },
    }
