"""Classification tasks over labelled text: four that need no download, and the user's own table."""

from pmpjax.evaluation.tasks.load import TASKS, load_task, table_task
from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Examples, Task, draw, examples_of, summary, with_classes

__all__ = [
    "TASKS",
    "Examples",
    "Sizes",
    "Task",
    "draw",
    "examples_of",
    "load_task",
    "make_task",
    "summary",
    "table_task",
    "with_classes",
]
