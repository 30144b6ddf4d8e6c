"""The bar says one line a stage where stderr is not a terminal, and nothing for a stage that failed."""

import pytest

from pmpjax.runs.progress import progress


def test_one_line_at_the_end(capsys):
    with progress("solve", total=3) as bar:
        for step in range(3):
            bar.update(1, loss=1 / (step + 3), note="a")
        assert capsys.readouterr().err == ""
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("solve: 3/3 in ") and "loss 0.2  note a" in err


def test_a_failed_stage_prints_no_line(capsys):
    with pytest.raises(KeyboardInterrupt), progress("solve") as bar:
        bar.update(1)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""
