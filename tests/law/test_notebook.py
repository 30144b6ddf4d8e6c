"""The notebook is its percent-format source, and what it says holds."""

import contextlib
import io
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"


def cells_of(source):
    """(kind, text) of each cell of a percent-format script."""
    parts = re.split(r"^# %%(.*)\n", source, flags=re.M)[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            yield "markdown", re.sub(r"^# ?", "", text.strip(), flags=re.M)
        else:
            yield "code", text.strip()


def test_the_notebook_is_its_source():
    cells = json.loads((FOLDER / "learning_law.ipynb").read_text())["cells"]
    source = list(cells_of((FOLDER / "learning_law.py").read_text()))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == source


def test_its_cells_run_and_the_law_appears():
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for kind, text in cells_of((FOLDER / "learning_law.py").read_text()):
            if kind == "code":
                exec(compile(text, "learning_law.py", "exec"), names)
    assert names["ratio"] > 3
    assert names["last"]["dev"].sum() < 0.6 * names["first"]["dev"].sum()
    assert names["spread"](names["last"]["kkt"]) < 0.2 * names["spread"](names["first"]["kkt"])
    assert "acceleration ratio" in shown.getvalue()
