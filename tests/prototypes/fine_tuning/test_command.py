"""`pmpjax prototypes fit` and `predict`: tables on the screen, mistakes in one line."""

import pytest

from pmpjax.cli import main


def test_a_finished_run_is_shown_and_predicts(fitted, tmp_path, capsys):
    config = fitted.config
    options = ["--text", "sentence", "--label", "kind", "--encoder", config.encoder, "--per-class", "2"]
    options += ["--concentration", "0.01", "--out", str(fitted.run)]
    assert main(["prototypes", "fit", config.data, *options]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    for words in (
        "logistic regression",
        f"{fitted.metrics['accuracy']:.1%}",
        "temperature",
        "report",
        "2 classes",
    ):
        assert words in shown
    (tmp_path / "new.csv").write_text("sentence\na b a\nd c\n \n")
    again = ["--run", str(fitted.run), "--threshold", "0.1"]
    assert main(["prototypes", "predict", str(tmp_path / "new.csv"), *again]) == 0
    shown = capsys.readouterr().out
    assert "<b>first</b>:" in shown and "1, listed in" in shown and "abstained" in shown
    assert (tmp_path / "new.predicted.csv").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "nothing"], "no task 'nothing'"),
        (["fit", "digits", "--epochs", "1"], "no encoder to train"),
        (["fit", "digits", "--per-class", "0"], "per_class 0 at least 1"),
        (["predict", "new.csv", "--run", "nowhere"], "no finished run"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["prototypes", *arguments]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")
