"""What the notebook of the Learning Law says holds, at the sizes below too."""

from tests.notebooks import execute, printed


def test_its_cells_run_and_the_law_appears():
    names, outputs = execute("learning_law", {"examples": 256, "steps": 200, "sweeps": 40})
    assert names["ratio"] > 3
    assert names["last"]["dev"].sum() < 0.6 * names["first"]["dev"].sum()
    assert names["spread"](names["last"]["kkt"]) < 0.2 * names["spread"](names["first"]["kkt"])
    assert "acceleration ratio" in printed(outputs)
