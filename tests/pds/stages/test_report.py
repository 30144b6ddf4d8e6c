"""The page of a run: texts as text, and what the stages found."""

import dataclasses
import html

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.data.origins import origin_shares
from pmpjax.pds.stages.report import ReportConfig, build_report
from tests.corpora import prepared_corpus

VERDICT = "selected data reaches the random run's final test loss in 200 of 400 steps (2.00x)"


def test_the_page_shows_texts_as_text_and_what_the_stages_found(tmp_path):
    prepared = prepared_corpus(tmp_path)
    texts = pq.read_table(prepared.documents.path).to_pydict()
    texts["text"][4] = "<script>alert('x')</script>"
    pq.write_table(pa.table(texts), prepared.documents.path)
    score = np.linspace(0, 1, len(prepared.documents.ids))
    score[4] = 9.0
    pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": score}), tmp_path / "scores.parquet")
    (tmp_path / "curves.png").write_bytes(b"\x89PNG and more")
    selected = np.arange(0, 60, 2)
    shares = origin_shares(prepared.documents, selected)
    build_report(
        dataclasses.replace(ReportConfig(), documents=3),
        metrics(shares),
        prepared.documents,
        tmp_path / "scores.parquet",
        selected,
        tmp_path / "curves.png",
        tmp_path,
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert VERDICT in html.unescape(page) and "33.3%" in page and "they do not pay" in page
    assert "0.75, added for the score" in page and "(2 of 7 rows)" in page
    first_row = page[page.index('class="equal"') :].split("<tr>")[2]
    assert first_row.index("&lt;script&gt;") < first_row.index("</td><td>"), "the best document stands on the left"
    assert shares["docstring"]["selection"] == 1 and shares["code"]["selection"] == 0
    assert sum(share["source"] for share in shares.values()) == pytest.approx(1)


def metrics(shares):
    """As `pmpjax.pds.pipeline.metrics_of` has them, with invented facts of the stages."""
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
        "verdict": VERDICT,
        "seeds": [0],
        "final_target_loss": {"pds": [2.0], "random": [4.0]},
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
