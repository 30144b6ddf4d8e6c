"""The figure of a comparison: every method is in it, in order, and the ends of the decay branches."""

from contextlib import contextmanager

import numpy as np
import pytest

from pmpjax.evaluation.figures import draw_curves
from pmpjax.runs import plots
from tests.evaluation.test_comparison import STEPS, curves, straight


@pytest.fixture
def drawn(monkeypatch):
    """The axes of what is drawn."""
    panels, figure = [], plots.figure

    @contextmanager
    def kept(*given, **options):
        with figure(*given, **options) as (whole, axes):
            panels.append(axes[0, 0])
            yield whole, axes

    monkeypatch.setattr(plots, "figure", kept)
    return panels


def texts(panel):
    return " ".join(text.get_text() for text in panel.texts)


def test_two_methods_with_the_speed_up(drawn, tmp_path):
    draw_curves(curves([2.0, 4.0]), {"pds": "selected", "random": "random data"}, tmp_path / "curves")
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert (tmp_path / "curves").with_suffix(suffix).read_bytes().startswith(magic)
    lines = {line.get_label(): line for line in drawn[0].lines}
    np.testing.assert_allclose(lines["selected"].get_ydata(), 6 - 3 * STEPS / 200)
    assert "133 of 400 steps (3.00x)" in texts(drawn[0])


def test_several_methods_with_the_baseline_behind_and_the_ends_of_the_branches(drawn, tmp_path):
    given = straight({"pds": [2.0, 2.2], "random": [1.0, 1.0], "other": [0.5, 0.5]})
    for one in given.values():
        one["decayed_test"] = np.float32(one["test"][-1] - 0.5)
    draw_curves(given, {"pds": "selected", "random": "random data", "other": "another"}, tmp_path / "curves.png")
    legend = [text.get_text() for text in drawn[0].get_legend().get_texts()]
    assert legend == ["selected", "another", "random data"]
    dots = [line for line in drawn[0].lines if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in dots] == pytest.approx([3.5, 5.0, 4.5])
    assert "selected: end of random data" in texts(drawn[0])


def test_a_method_that_never_gets_there_has_no_speed_up(drawn, tmp_path):
    draw_curves(curves([0.5]), {"pds": "selected", "random": "random data"}, tmp_path / "curves")
    assert not texts(drawn[0])
