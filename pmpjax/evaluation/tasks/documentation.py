"""Installed documentation -> the package that it describes."""

import textwrap

from pmpjax.data.origins import parse_origin
from pmpjax.data.sources.installed import Budget, harvest
from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Task

BUDGET = Budget(docstring=4_000_000, code=0, readme=0, changelog=0, licence=0, data=0)


def installed_documentation(
    *, seed: int = 0, sizes: Sizes = Sizes(classes=16, per_class=400), budget: Budget = BUDGET, characters: int = 300
) -> Task:
    """The beginnings of docstrings -> the installed package.

    Docstrings come from `pmpjax.data.sources.installed`, a sample within `budget.docstring` bytes that depends on the
    installed versions alone. They often name their package: this is an easy task by words.

    Args:
        characters: of each docstring, cut between words; white space is collapsed.

    Raises:
        ValueError: fewer than two packages in the sample.
    """
    found = harvest(budget)
    pairs = []
    for document in found.documents:
        package = parse_origin(document.origin).package
        text = textwrap.shorten(document.text, characters, placeholder="")
        if package is not None and text:
            pairs.append((text, package))
    task = make_task("installed-docs", pairs, seed=seed, sizes=sizes, source="installed-docs")
    return task._replace(counts=task.counts | {"rejected": len(found.rejected)})
