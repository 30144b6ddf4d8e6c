"""Figures are written whole, reproducibly, and without touching the reader's matplotlib state."""

import matplotlib
import numpy as np
import pytest

from pmpjax.runs import plots


def draw(path, runs):
    with plots.figure(path, columns=2) as (_, axes):
        plots.band(axes[0, 0], np.arange(3), runs, "runs")


def test_same_data_same_bytes_and_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    runs = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    draw(tmp_path / "a", runs)
    draw(tmp_path / "b", runs)
    draw(tmp_path / "c", runs + 1)
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        a, b, c = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in "abc")
        assert a.startswith(magic) and a == b and a != c
    assert dict(matplotlib.rcParams) == before


def test_a_dot_in_the_name_is_part_of_it_and_an_ending_may_be_given(tmp_path):
    for name in ("run-0.4", "run-0.5.png"):
        draw(tmp_path / name, np.ones(3))
    expected = {f"run-0.{number}.{ending}" for number in (4, 5) for ending in ("png", "pdf")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_a_failed_drawing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        draw(tmp_path / "a", np.zeros((2, 7)))
    assert list(tmp_path.iterdir()) == []
