"""Notebooks are kept as percent-format scripts beside them; `python -m tests.notebooks` makes them from those anew."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def cells_of(name: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each cell of the script."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %%(.*)\n", source, flags=re.M)[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            yield "markdown", re.sub(r"^# ?", "", text.strip(), flags=re.M)
        else:
            yield "code", text.strip()


def execute(name: str) -> tuple[dict[str, Any], str]:
    """Runs the code cells one after the other: the names that they leave, and what they printed."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for kind, text in cells_of(name):
            if kind == "code":
                exec(compile(text, f"{name}.py", "exec"), names)
    return names, shown.getvalue()


def execute_apart(name: str, wanted: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The same in a process of its own, with JAX as a reader's is set and not as the tests set it.

    Of the names it returns those that are `wanted`, which JSON must be able to hold.
    """
    code = (
        "import json, sys; from tests.notebooks import execute; names, shown = execute(sys.argv[1]); "
        "print(json.dumps([{name: names[name] for name in sys.argv[2:]}, shown], default=float))"
    )
    # What this process lets pass that one may too; PYTHONWARNINGS would come before "error", whose word would be last.
    command = [sys.executable, "-W", "error", *(f"-W{option}" for option in sys.warnoptions), "-c", code, name, *wanted]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    done = subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    names, shown = json.loads(done.stdout.splitlines()[-1])
    return names, shown


def notebook(name: str) -> str:
    """The .ipynb of a script, without outputs."""
    cells = []
    for number, (kind, text) in enumerate(cells_of(name)):
        of_code = {"execution_count": None, "outputs": []} if kind == "code" else {}
        source = text.splitlines(keepends=True)
        cells.append({"cell_type": kind, "id": f"c{number:03d}", "metadata": {}, "source": source} | of_code)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for script in FOLDER.glob("*.py"):
        script.with_suffix(".ipynb").write_text(notebook(script.stem), encoding="utf-8")
