"""README and the page of each room: short, with links that lead somewhere and names that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pmpjax"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
PAGES = [ROOT / "README.md", *sorted(PACKAGE.glob("*/README.md")), *sorted((ROOT / "experiments").glob("*.md"))]


def prose(path):
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def resolve(dotted):
    """What a dotted name of the package stands for: modules first, then attributes."""
    parts = dotted.split(".")
    found, rest = importlib.import_module(parts[0]), parts[1:]
    while rest:
        if not hasattr(found, rest[0]):
            found = importlib.import_module(f"{found.__name__}.{rest[0]}")
        else:
            found = getattr(found, rest[0])
        rest = rest[1:]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_a_page_that_the_readme_links(room):
    assert (PACKAGE / room / "README.md").exists()
    assert f"](pmpjax/{room}/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", prose(page)):
        assert target.startswith("http") or (page.parent / target).exists(), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_names_of_the_package_on_a_page_exist(page):
    for dotted in re.findall(r"`(pmpjax(?:\.\w+)+)(?:\([^`]*\))?`", prose(page)):
        resolve(dotted)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name not in ("log",)], ids=name_of)
def test_pages_are_short(page):
    longest = 60 if page.parent.name == "experiments" and page.name != "CHANGELOG.md" else 120
    assert len(page.read_text(encoding="utf-8").splitlines()) <= longest


def test_a_name_that_is_not_there_is_found_out():
    assert resolve("pmpjax.control.costate.costate") is resolve("pmpjax.costate")
    with pytest.raises(ImportError):
        resolve("pmpjax.control.nothing")
