"""The pages of the rooms: what their tables name exists, their Python runs, and their options are the command's."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from pmpjax.law import LawConfig

PAGES = sorted(Path(__file__).parents[1].glob("pmpjax/*/README.md"))
LINES = {"law": 80, "costs": 50, "evaluation": 50}


def names(page):
    """Dotted names of the package anywhere on a page."""
    return sorted(set(re.findall(r"`(pmpjax\.[\w.]+)`", page.read_text(encoding="utf-8"))))


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_a_page_names_exists_and_its_python_runs(page):
    assert len(names(page)) > 5
    for name in names(page):
        assert resolve(name) is not None
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES.get(page.parent.name, 120)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), space)


def test_a_name_that_is_not_there_is_noticed():
    with pytest.raises(AttributeError):
        resolve("pmpjax.law.spreads")


def test_the_laws_page_has_all_options_of_its_command():
    text = (Path(__file__).parents[1] / "pmpjax" / "law" / "README.md").read_text(encoding="utf-8")
    given = set(re.findall(r"`--([\w.-]+)`", text))
    fields = {field.name for field in dataclasses.fields(LawConfig)} - {"problem"}
    inner = {f"problem.{field.name}" for field in dataclasses.fields(LawConfig().problem)}
    assert given == {name.replace("_", "-") for name in fields | inner} | {"out"}
