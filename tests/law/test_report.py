"""The result of a run from arrays whose numbers are known."""

import numpy as np
import pytest

from pmpjax.law import report

STEPS = np.arange(101)
CURVES = {
    "dev_uniform": 1 / (1 + STEPS / 10),
    "dev_optimised": 1 / (1 + STEPS / 2),
    "test_uniform": 2 / (1 + STEPS / 10),
    "test_optimised": 2 / (1 + STEPS / 2),
}
HISTORY = {
    "seconds": np.array([5.0, 12.0, 14.0, 16.0, 18.0]),
    "acceleration_ratio": np.array([1.0, np.nan, 2.5, 3.0, 6.0]),
    "accepted": np.array([1.0, 0.0, 1.0, 1.0, 1.0]),
    "kkt_spread": np.array([0.9, 0.9, 0.5, 0.4, 0.3]),
    "law_spread": np.array([0.8, 0.8, 0.6, 0.5, 0.4]),
    "noisy_weight": np.array([1.0, 1.0, 0.5, 0.4, 0.2]),
    "dev": np.ones((4, 3)),
}
LABELS = {"solver": "mirror", "preset": "quick"}


def result(seed=0, **change):
    return report.metrics(HISTORY | change, CURVES) | LABELS | {"seed": seed}


def test_metrics_are_those_of_the_arrays():
    found = result()
    assert found["acceleration_ratio"] == 5.0 and found["sweeps"] == 5 and found["seconds"] == 18.0
    assert found["area_under_curve"]["initial"] == pytest.approx(CURVES["dev_uniform"].sum())
    assert found["kkt_spread"] == {"initial": 0.9, "final": 0.3}
    assert found["compile_seconds"] == 8.0  # twelve seconds for two sweeps, two for each of the others
    assert found["seconds_to"] == {"2": 6.0, "5.5": 10.0, "18": None}
    assert set(found["history"]) == set(HISTORY) - {"dev"}


def test_several_seeds_have_means_and_students_interval():
    each = [result(0), result(1, kkt_spread=HISTORY["kkt_spread"] + 0.1)]
    found = report.summary(each)
    assert found["kkt_spread"]["final"] == pytest.approx(0.35) and found["seed"] == [0, 1]
    low, high = found["interval"]["kkt_spread.final"]
    assert (high - low) / 2 == pytest.approx(12.7062 * np.std([0.3, 0.4], ddof=1) / np.sqrt(2), rel=1e-4)
    assert found["seconds_to"]["18"] is None and found["interval"]["seconds_to.18"] is None


def test_the_page_has_the_change_and_the_figures_that_are_there(tmp_path):
    (tmp_path / "weights.png").write_bytes(b"\x89PNG")
    report.write(tmp_path / "report.html", result(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "5.0 times as fast" in page and "<td>0.9</td><td>0.3</td>" in page and page.count("<img") == 1
    report.write(tmp_path / "report.html", result() | {"acceleration_ratio": None}, tmp_path)
    assert "is never reached" in (tmp_path / "report.html").read_text()
