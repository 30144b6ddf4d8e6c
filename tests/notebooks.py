"""Notebooks are kept as percent-format scripts in the same folder.

`python -m tests.notebooks [NAME...]` runs them at full size and writes them anew with what they showed.

The cell `# %% sizes` of a script holds plain assignments; tests replace some of them by smaller ones.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "notebooks"


def cells_of(name: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each cell of the script: markdown, code or sizes."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %%(.*)\n", source, flags=re.M)[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            yield "markdown", re.sub(r"^# ?", "", text.strip(), flags=re.M)
        else:
            yield kind.strip() or "code", text.strip()


def execute(name: str, sizes: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Runs the code cells one after the other: the names that they leave, and the outputs of each code cell.

    `sizes` replaces assignments of the cell of sizes; ValueError for a name that it does not have.
    """
    names: dict[str, Any] = {}
    outputs = []
    for kind, text in cells_of(name):
        if kind != "markdown":
            outputs.append(_run(text, f"{name}.py", names))
        if kind == "sizes":
            if unknown := set(sizes or {}) - names.keys():
                raise ValueError(f"{name} has no size {', '.join(sorted(unknown))}")
            names |= sizes or {}
    return names, outputs


def _run(text: str, file: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reader would see below the cell: its printed text, and the value of its last expression."""
    tree = ast.parse(text)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, file, "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), file, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if value is not None:
        shown = {"text/plain": [repr(value)]}
        if isinstance(value, Figure):
            image = io.BytesIO()
            FigureCanvasAgg(value)
            value.savefig(image, format="png", dpi=100, metadata={"Software": None})
            shown = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "data": shown, "metadata": {}})
    return outputs


def printed(outputs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """All that the cells printed."""
    return "".join(line for cell in outputs for one in cell for line in one.get("text", ()))


def execute_apart(name: str, wanted: Sequence[str], sizes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """`execute` in a process of its own, with JAX as a reader's is set and not as the tests set it.

    Of the names it returns those that are `wanted`, arrays as lists, and what was printed. JSON must hold the rest.
    """
    code = (
        "import json, sys; import numpy as np; from tests.notebooks import execute, printed; "
        "names, outputs = execute(sys.argv[1], json.loads(sys.argv[2])); "
        "wanted = {name: names[name] for name in sys.argv[3:]}; "
        "print(json.dumps([wanted, printed(outputs)], default=lambda value: np.asarray(value).tolist()))"
    )
    # What this process lets pass that one may too; PYTHONWARNINGS would come before "error", whose word would be last.
    options = [sys.executable, "-W", "error", *(f"-W{option}" for option in sys.warnoptions)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    done = subprocess.run(
        [*options, "-c", code, name, json.dumps(sizes), *wanted],
        cwd=FOLDER.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    names, shown = json.loads(done.stdout.splitlines()[-1])
    return names, shown


def notebook(name: str, outputs: Sequence[list[dict[str, Any]]]) -> str:
    """The .ipynb of a script, with the outputs of its code cells."""
    cells, left = [], iter(outputs)
    for number, (kind, text) in enumerate(cells_of(name)):
        code = kind != "markdown"
        of_code = {"execution_count": None, "outputs": next(left)} if code else {}
        source = text.splitlines(keepends=True)
        cell = {"cell_type": "code" if code else kind, "id": f"c{number:03d}", "metadata": {}, "source": source}
        cells.append(cell | of_code)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def kept(name: str) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """The sources of the .ipynb's cells, and the outputs of its code cells."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells], [cell["outputs"] for cell in cells if "outputs" in cell]


if __name__ == "__main__":
    for script in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py")):
        (FOLDER / f"{script}.ipynb").write_text(notebook(script, execute(script)[1]), encoding="utf-8")
