"""Tasks by name, as commands take them: a task of the package, some of its classes, or the user's own table."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.data.documents import SourceError
from pmpjax.data.sources.tables import TABLES, read_table
from pmpjax.evaluation.tasks.debian import debian_sections
from pmpjax.evaluation.tasks.digits import digits
from pmpjax.evaluation.tasks.documentation import installed_documentation
from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Task, with_classes
from pmpjax.evaluation.tasks.wordnet import wordnet
from pmpjax.runs.errors import nearest

TASKS: dict[str, Callable[..., Task]] = {
    "wordnet": wordnet,
    "debian-sections": debian_sections,
    "installed-docs": installed_documentation,
    "digits": digits,
}


def load_task(name: str, *, seed: int = 0, text: str = "text", label: str = "label") -> Task:
    """Reads a task.

    Args:
        name: one of `TASKS`, "NAME:CLASS,CLASS[,...]" for some of its classes, or the path of a table.
        seed: of the splits.
        text: column of a table with the texts.
        label: column of a table with the labels.

    Raises:
        SourceError: no such task or table, or its data are not on this machine.
        ValueError: a class that the task does not have.

    >>> task = load_task("wordnet:food,person")
    >>> task.classes, len(task.splits["train"]), len(task.splits["test"])
    (('food', 'person'), 560, 160)
    """
    if name.lower().endswith(TABLES):
        return table_task(name, seed=seed, text=text, label=label)
    kind, _, classes = name.partition(":")
    if kind not in TASKS:
        near = nearest(kind, TASKS)
        hint = f"did you mean {near}? " if near else ""
        raise SourceError(
            f"no task {kind!r}; {hint}give one of {', '.join(TASKS)}, or a table that ends in {', '.join(TABLES)}"
        )
    task = TASKS[kind](seed=seed)
    return with_classes(task, [part.strip() for part in classes.split(",")]) if classes else task


def table_task(
    path: Path | str,
    *,
    test: Path | str | None = None,
    seed: int = 0,
    sizes: Sizes = Sizes(),
    text: str = "text",
    label: str = "label",
) -> Task:
    """A task from the user's own table, see `pmpjax.data.sources.tables.read_table`.

    Args:
        test: a second table that is the split "test"; the first one is "train" then, less the texts that are in both,
            and "dev" is empty.

    Raises:
        SourceError: a table that cannot be read, or has no such column.
        ValueError: fewer than two classes.
    """
    tables = [read_table(file, text=text, label=label) for file in (path, test) if file is not None]
    pairs = [pair for table in tables for pair in zip(table.texts, table.labels, strict=True)]
    given = None
    if test is not None:
        given = ["train"] * len(tables[0].texts) + ["test"] * len(tables[1].texts)
    source = " and ".join(Path(file).as_posix() for file in (path, test) if file is not None)
    task = make_task(Path(path).name, pairs, seed=seed, sizes=sizes, source=source, given=given)
    return task._replace(counts=task.counts | {"rejected": sum(len(table.rejected) for table in tables)})
