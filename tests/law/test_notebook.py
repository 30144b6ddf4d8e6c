"""The notebook is its percent-format source, and what it says holds."""

from tests.notebooks import FOLDER, execute, notebook


def test_the_notebook_is_its_source():
    assert (FOLDER / "learning_law.ipynb").read_text(encoding="utf-8") == notebook("learning_law")


def test_its_cells_run_and_the_law_appears():
    names, shown = execute("learning_law")
    assert names["ratio"] > 3
    assert names["last"]["dev"].sum() < 0.6 * names["first"]["dev"].sum()
    assert names["spread"](names["last"]["kkt"]) < 0.2 * names["spread"](names["first"]["kkt"])
    assert "acceleration ratio" in shown
