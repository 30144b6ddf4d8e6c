"""The pages of control and training: their examples run, and every row of their tables names a function."""

import re
from pathlib import Path

import pytest

from tests.test_pages import resolve

PACKAGE = Path(__file__).parents[2] / "pmpjax"
PAGES = ("control", "training")


def blocks(page):
    text = (PACKAGE / page / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page):
    assert len(blocks(page)) == {"control": 6, "training": 2}[page]
    names = {"__name__": "readme"}
    for number, block in enumerate(blocks(page)):
        assert len(block.splitlines()) <= 21, f"example {number} of {page} is long"
        exec(compile(block, f"{page}/README.md, example {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_every_equation_and_adjoint_has_its_function(page):
    rows = re.findall(
        r"^\| (?!equation|adjoint)(.*) \|$", (PACKAGE / page / "README.md").read_text(), flags=re.MULTILINE
    )
    assert len(rows) >= 8
    for row in rows:
        names = re.findall(r"`(pmpjax(?:\.\w+)+)", row)
        assert names, row
        assert all(callable(resolve(name)) for name in names)
