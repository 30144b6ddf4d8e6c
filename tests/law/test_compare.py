"""Solvers compared: a table of every seed and the mean, and a figure."""

from dataclasses import replace

import pytest

from pmpjax.law import compare, optimise, run
from tests.law.test_experiment import SMALL


def test_the_table_has_a_row_for_each_seed_and_the_mean_of_finished_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("pmpjax.law.report.draw", lambda *_: None)
    config = replace(SMALL, sweeps=4, seeds=(0, 1))
    areas = run(config, tmp_path / "mirror")["per_seed"]["area_under_curve.final"]
    monkeypatch.setattr(optimise, "optimise", lambda *_, **__: pytest.fail("solved again"))
    rows = compare({"mirror": config}, tmp_path, command="again").splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    assert [row[:2] for row in cells[2:]] == [["mirror", "0"], ["mirror", "1"], ["**mirror**", "mean"]]
    assert {len(row) for row in cells} == {len(cells[0])}, "a rectangular table"
    assert cells[3][3].endswith(f"-> {areas[1]:.1f}") and (tmp_path / "comparison.png").exists()


def test_one_seed_is_nothing_to_compare_over(tmp_path):
    with pytest.raises(ValueError, match=r"configs\['mirror'\]\.seeds is \(0,\)"):
        compare({"mirror": SMALL}, tmp_path, command="again")
