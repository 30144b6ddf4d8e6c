"""A tiny BERT, a table of its words in two classes, and a run of `pmpjax prototypes fit` on them."""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import pytest

from pmpjax.prototypes.fine_tuning import work
from pmpjax.prototypes.fine_tuning.fit import Policy
from pmpjax.prototypes.fine_tuning.work import FitConfig, run_fit
from tests.models.test_encoder import write
from tests.prototypes.fine_tuning.bars import Bars


class Fitted(NamedTuple):
    """A folder with the encoder and the table, the run in it, its metrics and its bars."""

    folder: Path
    config: FitConfig
    run: Path
    metrics: dict
    bars: Bars


def table(path):
    """24 texts of a and b, 24 of c and d: CSV with a column that no command needs."""
    rows = [
        f"{number},{' '.join(words)},<b>{name}</b>"
        for name, letters in (("first", "ab"), ("second", "cd"))
        for length in (3, 4)
        for number, words in enumerate(itertools.product(letters, repeat=length))
    ]
    path.write_text("\n".join(["number,sentence,kind", *rows]) + "\n")
    return path


@pytest.fixture(scope="session", autouse=True)
def without_steps():
    """Runs fit without L-BFGS, whose compilation for each number of texts takes seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(work, "Policy", functools.partial(Policy, steps=0))
        yield


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tuning")
    write(folder / "bert")
    config = FitConfig(
        str(table(folder / "table.csv")),
        text="sentence",
        label="kind",
        encoder=str(folder / "bert"),
        per_class=2,
        concentration=0.01,
    )
    bars = Bars()
    return Fitted(folder, config, folder / "run", run_fit(config, folder / "run", bars), bars)
