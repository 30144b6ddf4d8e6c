"""The histogram of the scores and the costate's norms: files, and every document in a bin."""

import numpy as np
import pytest

from pmpjax.evaluation.figures import draw_scores
from pmpjax.runs import plots


@pytest.mark.parametrize("scores", [np.append(np.linspace(-1, 1, 99), 1e6), np.full(100, 3.0)])
def test_no_document_is_outside_the_histogram(scores, tmp_path, monkeypatch):
    drawn = []
    clip = plots.figure.__wrapped__

    def kept(*given, **options):
        for whole, axes in clip(*given, **options):
            yield whole, axes
            drawn.append(axes)

    monkeypatch.setattr(plots, "figure", plots.contextmanager(kept))
    draw_scores(scores, np.arange(0, 100, 4), [3.0, 2.0, 1.0], tmp_path / "scores")
    left, right = drawn[0][0]
    counts = [sum(bar.get_height() for bar in bars) for bars in left.containers]
    assert counts == [100, 25], "all documents, and those of the selection"
    assert right.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert (tmp_path / "scores.png").exists() and (tmp_path / "scores.pdf").exists()
