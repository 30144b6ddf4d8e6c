"""The page of the room: every function that it names exists, and so does every option."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

import pmpjax
from pmpjax.cli.pds import BRIEF, WITHHELD
from pmpjax.pds.sweep.problem import SolveConfig

PAGE = (Path(pmpjax.__file__).parent / "pds" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(pmpjax(?:\.\w+)+)`", PAGE))))
def test_a_name_of_the_page_is_one_of_the_package(name):
    found = pmpjax
    module = "pmpjax"
    for part in name.split(".")[1:]:
        module = f"{module}.{part}"
        if not hasattr(found, part):
            importlib.import_module(module)
        found = getattr(found, part)
    assert found.__doc__


def test_the_options_of_the_page_are_offered_by_the_command():
    options = set(re.findall(r"`--([a-z.-]+)", PAGE))
    fields = {f"solve.{each.name}".replace("_", "-") for each in dataclasses.fields(SolveConfig)}
    assert {option for option in options if option.startswith("solve.")} <= fields - set(WITHHELD)
    assert {option for option in options if not option.startswith("solve.")} - set(BRIEF) <= {"out"}
