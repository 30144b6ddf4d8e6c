"""A classification task over labelled texts: its splits, class-balanced draws from them, and tasks of fewer classes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pmpjax.data.documents import digest
from pmpjax.runs.errors import nearest


class Task(NamedTuple):
    """Labelled texts, split.

    Fields:
        name: for tables and pages.
        texts: no two are equal but for case and white space; in an order that mixes the classes.
        labels: index of each text's class in `classes`.
        classes: names in alphabetical order.
        splits: indices of the texts in "train", "dev" and "test", sorted; they are disjoint and cover all texts.
        source: where the texts came from.
        counts: "given" examples; of them dropped as "duplicates" (same text, same class; the first stays), as
            "conflicting" (the same text in several classes: none stays), as "left out" by `Sizes`, and, among those
            that were no examples, "rejected".
        features: numbers instead of text, one row an example; None where texts are all there is.
    """

    name: str
    texts: tuple[str, ...]
    labels: Int[np.ndarray, " examples"]
    classes: tuple[str, ...]
    splits: dict[str, Int[np.ndarray, " split"]]
    source: str
    counts: dict[str, int]
    features: Float[np.ndarray, "examples features"] | None = None


class Examples(NamedTuple):
    """Some examples of a task: texts, labels (indices of classes), features where the task has them, and their indices
    in the task."""

    texts: list[str]
    labels: Int[np.ndarray, " examples"]
    features: Float[np.ndarray, "examples features"] | None
    index: Int[np.ndarray, " examples"]


def examples_of(task: Task, split: str) -> Examples:
    """All examples of a split, in the task's order."""
    return take(task, _split_of(task, split))


def draw(task: Task, per_class: int, seed: int, *, split: str = "train") -> Examples:
    """`per_class` examples of each class, in an order that mixes the classes.

    Examples are taken and ordered by digest(seed, text). Draws of one seed are nested: what is drawn for a smaller
    `per_class` is among what is drawn for a larger one, so that curves over the number of examples are paired.

    Raises:
        ValueError: a class has fewer examples in the split.

    >>> from pmpjax.evaluation.tasks import make_task
    >>> pairs = [(f"{kind} text {i}", kind) for kind in ("a", "b") for i in range(10)]
    >>> drawn = draw(make_task("toy", pairs, seed=0), 2, seed=0)
    >>> sorted(drawn.labels.tolist()), len(set(drawn.texts))
    ([0, 0, 1, 1], 4)
    """
    if per_class < 1:
        raise ValueError(f"draw of {per_class} examples per class; give at least 1")
    members = _split_of(task, split)
    keys = {int(index): digest(str(seed), "draw", task.texts[index]) for index in members}
    ordered = np.array(sorted(keys, key=keys.__getitem__), np.int32)
    labels = task.labels[ordered]
    count = np.bincount(labels, minlength=len(task.classes))
    if count.min(initial=per_class) < per_class:
        short = int(count.argmin())
        raise ValueError(
            f"class {task.classes[short]!r} of task {task.name!r} has {count[short]} examples in split {split!r}, "
            f"expected {per_class}; draw fewer, or leave the class out with `with_classes`"
        )
    drawn = np.zeros(len(ordered), bool)
    for label in range(len(task.classes)):
        drawn[np.flatnonzero(labels == label)[:per_class]] = True
    return take(task, ordered[drawn])


def take(task: Task, index: Int[np.ndarray, " some"]) -> Examples:
    """The examples with these indices."""
    features = None if task.features is None else task.features[index]
    return Examples([task.texts[number] for number in index], task.labels[index], features, index)


def _split_of(task: Task, split: str) -> Int[np.ndarray, " split"]:
    if split not in task.splits:
        raise ValueError(f"task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    return task.splits[split]


def with_classes(task: Task, classes: Sequence[str]) -> Task:
    """The task of telling some of the classes apart; every example keeps its split.

    Raises `ValueError` for a class that is not there, and for fewer than two.

    >>> from pmpjax.evaluation.tasks import make_task
    >>> pairs = [(f"{kind} text {i}", kind) for kind in ("a", "b", "c") for i in range(10)]
    >>> with_classes(make_task("toy", pairs, seed=0), ["c", "a"]).classes
    ('a', 'c')
    """
    for name in classes:
        if name not in task.classes:
            near = nearest(name, task.classes)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"task {task.name!r} has no class {name!r}{hint}; it has {', '.join(task.classes)}")
    names = tuple(sorted(set(classes)))
    if len(names) < 2:
        raise ValueError(f"task {task.name!r} with the classes {', '.join(names) or 'none'}; give at least two")
    code = np.array([names.index(name) if name in names else -1 for name in task.classes], np.int32)
    kept = np.flatnonzero(code[task.labels] >= 0).astype(np.int32)
    place = np.full(len(task.texts), -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    return task._replace(
        texts=tuple(task.texts[number] for number in kept),
        labels=code[task.labels[kept]],
        classes=names,
        splits={name: place[index][place[index] >= 0] for name, index in task.splits.items()},
        counts=task.counts | {"left out": task.counts["left out"] + len(task.texts) - len(kept)},
        features=None if task.features is None else task.features[kept],
    )


def summary(task: Task) -> Mapping[str, object]:
    """What a page or a manifest says of a task: source, classes, sizes of the splits, counts of what was dropped."""
    return {
        "name": task.name,
        "source": task.source,
        "classes": list(task.classes),
        **{split: len(index) for split, index in task.splits.items()},
        **task.counts,
    }
