"""The pages of control and training: their examples run, and what their tables name exists."""

import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pmpjax"
PAGES = ("control", "training")


def blocks(page):
    text = (PACKAGE / page / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def named(page):
    """Dotted names in the rows of the page's tables."""
    rows = [line for line in (PACKAGE / page / "README.md").read_text().splitlines() if line.startswith("|")]
    return sorted({name for row in rows for name in re.findall(r"`(pmpjax\.[\w.]+)`", row)})


def resolve(name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not there")


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page):
    assert len(blocks(page)) == {"control": 6, "training": 2}[page]
    names = {"__name__": "readme"}
    for number, block in enumerate(blocks(page)):
        assert len(block.splitlines()) <= 21, f"example {number} of {page} is long"
        exec(compile(block, f"{page}/README.md, example {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_name_what_exists(page):
    assert len(named(page)) >= 8
    for name in named(page):
        assert resolve(name) is not None


def test_a_name_that_is_gone_is_noticed():
    with pytest.raises(AttributeError):
        resolve("pmpjax.observables.worths")
