"""`pmpjax icl compare`: a table of each kind, and mistakes in one line."""

import pytest

from pmpjax.cli import main
from pmpjax.contexts.meta_optimization import experiment
from tests.contexts.meta_optimization.test_experiment import toy


@pytest.mark.slow
def test_the_command_prints_its_tables_and_names_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "load", toy)
    sizes = "--per-class 1 --items 2 --validation 2 --draws 1 --rates 0.1 --orders 2 --seeds 0 --separator z".split()
    folder = tmp_path / "run"
    assert main(["icl", "compare", "--template", "{text}", "--instruction", "", *sizes, "--out", str(folder)]) == 0
    shown = capsys.readouterr().out
    for words in ("position-matched", "untrained", "Rec2FTP", "sensitivity", "by layer: attention"):
        assert words in shown
    assert (folder / "report.html").exists() and "report.html" in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "wordnet:food"], "at least two"),
        (["--task", "nothing"], "no task 'nothing'"),
        (["--model", "nowhere.gguf"], "nowhere.gguf"),
        (["--items", "0"], "items is 0, expected at least 1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, words):
    assert main(["icl", "compare", *options, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown
