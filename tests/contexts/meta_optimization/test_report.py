"""Metrics over seeds from what the stages stored: against plain means, and what is undefined stays so."""

import numpy as np
import pytest

from pmpjax.contexts.meta_optimization import report
from pmpjax.statistics import estimate

ARMS = ("zero_shot", "position_matched", "in_context", "fine_tuned", "layer_causal")


def seed_of(number, right=None):
    generator = np.random.default_rng(number)
    names = {name for at, name in report.MEASURES.values() if at != "orders"}
    world = {
        "arrays": {name: generator.normal(size=(2, 3)) for name in sorted(names)},
        "correct": {arm: generator.random(3) < 0.5 if right is None else np.full(3, right) for arm in ARMS},
        "items": [0, 1, 2],
        "demonstrations": 4,
        "labels_moved": 2,
        "too_long": [1],
        "duplicates": 0,
    }
    rates = {"rates": {"fine_tuned": 0.1}, "rate_at_the_end": ["fine_tuned"], "diverged": {"fine_tuned": [9.0]}}
    orders = {name: generator.normal(size=(2, 3)) for name in ("order_in_context", "order_fine_tuned")}
    both = ("in_context", "fine_tuned")
    return {
        "choice": {**rates, "draw": 0, "task": {"name": "toy"}},
        "trained": world,
        "untrained": {**world, **rates},
        "shuffled": world,
        "orders": {
            "arrays": orders,
            "accuracy": {arm: [0.5, 1.0] for arm in both},
            "changed": dict.fromkeys(both, 0.25),
        },
    }


def test_means_and_intervals_are_over_seeds():
    found = [seed_of(0), seed_of(1)]
    metrics = report.metrics((0, 1), found)
    values = np.stack([one["trained"]["arrays"]["sim_am"] for one in found])
    for layer in range(2):
        expected = estimate(values[:, layer].mean(axis=1))
        assert metrics["by_layer"]["SimAM"][layer]["mean"] == pytest.approx(expected.mean)
        assert metrics["by_layer"]["SimAM"][layer]["interval"] == pytest.approx(expected.interval)
    assert metrics["overall"]["SimAM"]["mean"] == pytest.approx(values.mean())
    assert metrics["orders"]["in_context"]["deviation_of_accuracy"]["mean"] == pytest.approx(np.sqrt(0.125))
    assert "seed 0: demonstrations longer than the window, in no arm: [1]" in metrics["warnings"]
    assert "untrained, seed 1: fine_tuned diverged at the rates [9.0]" in metrics["warnings"]


def test_what_is_undefined_is_left_out_counted_and_never_zero():
    found = [seed_of(0), seed_of(1)]
    for one in found:
        one["trained"]["arrays"]["sim_aou"][0] = np.nan
        one["trained"]["arrays"]["kendall"][1, 0] = np.nan
    metrics = report.metrics((0, 1), found)
    first, second = metrics["by_layer"]["SimAOU"]
    assert np.isnan(first["mean"]) and first["interval"] is None and np.isfinite(second["mean"])
    kept = np.mean([one["trained"]["arrays"]["kendall"][1, 1:].mean() for one in found])
    assert metrics["by_layer"]["Kendall"][1]["mean"] == pytest.approx(kept)
    assert metrics["undefined"]["SimAOU"] >= 6 and metrics["undefined"]["Kendall"] >= 2
    table = report.tables(metrics)["by layer: similarity of updates (SimAOU)"]
    assert table.rows[0][1] == "undefined"


@pytest.mark.parametrize("right", [False, True])
def test_no_item_that_training_mends_is_said_and_no_number(right, tmp_path):
    metrics = report.metrics((0,), [seed_of(0, right)]) | {"task": {"name": "toy"}}
    assert np.isnan(metrics["rec2ftp"]["trained, fine_tuned"]["value"])
    rows = report.tables(metrics)["Rec2FTP: of what fine-tuning mends, how much the context does"].rows
    assert rows[0] == ("trained, fine-tuned", "undefined: no item is wrong zero-shot and right after fine-tuning", "0")
    report.write(tmp_path, metrics)
    page = (tmp_path / "report.html").read_text()
    assert "undefined: no item is wrong" in page and "diverged at the rates" in page and "data:image/png" in page
    assert report.verdict(metrics).startswith("SimAOU ")
