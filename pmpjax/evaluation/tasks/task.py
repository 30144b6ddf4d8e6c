"""A classification task over labelled texts: splits that share no text, and class-balanced draws from them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pmpjax.data.documents import digest
from pmpjax.data.duplicates import normalised
from pmpjax.runs.errors import nearest

SPLITS = ("test", "dev", "train")
"""Of two copies in given splits, the one that stands in the first of these stays."""


class Sizes(NamedTuple):
    """What is kept of the examples and how it is split.

    Fields:
        dev: share of each class that goes to the split "dev".
        test: share of each class that goes to "test"; the rest, at least one example of each class, is "train".
        classes: only so many of the largest classes are kept (of equal ones those that come first); None keeps all.
        per_class: at most so many examples of each class are kept; None keeps all.
    """

    dev: float = 0.1
    test: float = 0.2
    classes: int | None = None
    per_class: int | None = None


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


def make_task(
    name: str,
    examples: Sequence[tuple[str, str]],
    *,
    seed: int,
    sizes: Sizes = Sizes(),
    source: str = "",
    given: Sequence[str] | None = None,
) -> Task:
    """A task from (text, class) pairs: copies are dropped, classes chosen, each class is split.

    Texts are compared without regard to case and white space. Within a class, texts are split in the order of
    digest(seed, text): the task does not depend on the order of the examples, and what `sizes` keeps not on the seed.

    Args:
        seed: of the splits.
        given: the split of each example ("train", "dev" or "test") where the data have it; then `sizes.dev` and
            `sizes.test` are not used.

    Raises:
        ValueError: sizes that leave nothing to train on, splits that do not fit, fewer than two classes.

    >>> pairs = [(f"{kind} text {i}", kind) for kind in ("a", "b") for i in range(10)] + [("A  text 0", "a")]
    >>> task = make_task("toy", pairs, seed=0)
    >>> task.classes, {name: len(index) for name, index in task.splits.items()}, task.counts["duplicates"]
    (('a', 'b'), {'train': 14, 'dev': 2, 'test': 4}, 1)
    """
    if not (0 <= sizes.dev and 0 <= sizes.test and sizes.dev + sizes.test < 1):
        raise ValueError(
            f"Sizes(dev={sizes.dev}, test={sizes.test}) leaves nothing to train on; "
            "give shares of at least 0 whose sum is below 1"
        )
    for field in ("classes", "per_class"):
        count = getattr(sizes, field)
        if count is not None and count < 1:
            raise ValueError(f"Sizes({field}={count}) keeps nothing; give at least 1, or None for all")
    if given is not None and len(given) != len(examples):
        raise ValueError(f"task {name!r} has {len(given)} splits for {len(examples)} examples; give one for each")
    unknown = sorted(set(given or ()) - set(SPLITS))
    if unknown:
        raise ValueError(f"task {name!r} has a split {unknown[0]!r}; known are {', '.join(SPLITS)}")
    kept, counts = _without_copies(examples, given)
    by_class: dict[str, list[int]] = {}
    for number in kept:
        by_class.setdefault(examples[number][1], []).append(number)
    largest = sorted(by_class, key=lambda label: -len(by_class[label]))[: sizes.classes]
    if len(largest) < 2:
        raise ValueError(
            f"task {name!r} has {len(largest)} classes ({', '.join(largest) or 'none'}) in {len(examples)} examples, "
            "expected at least 2; check the column of labels"
        )
    chosen: dict[str, list[int]] = {split: [] for split in SPLITS}
    for label in largest:
        members = _ordered(by_class[label], examples, "kept")[: sizes.per_class]
        for split, numbers in _split(members, examples, seed, sizes, given).items():
            chosen[split] += numbers
    ordered = _ordered([number for numbers in chosen.values() for number in numbers], examples, "kept")
    place = {number: index for index, number in enumerate(ordered)}
    classes = tuple(sorted(largest))
    code = {label: index for index, label in enumerate(classes)}
    return Task(
        name,
        tuple(examples[number][0] for number in ordered),
        np.array([code[examples[number][1]] for number in ordered], np.int32),
        classes,
        {split: np.array(sorted(place[n] for n in chosen[split]), np.int32) for split in reversed(SPLITS)},
        source,
        counts | {"left out": len(kept) - len(ordered), "rejected": 0},
    )


def _without_copies(examples: Sequence[tuple[str, str]], given: Sequence[str] | None) -> tuple[list[int], dict]:
    """Numbers of the examples that stay, in their order, and how many did not."""
    classes: dict[str, set[str]] = {}
    keys = [normalised(text) for text, _ in examples]
    for key, (_, label) in zip(keys, examples, strict=True):
        classes.setdefault(key, set()).add(label)
    conflicting = sum(len(classes[key]) > 1 for key in keys)
    first: dict[str, int] = {}
    order = (
        range(len(examples)) if given is None else sorted(range(len(examples)), key=lambda n: SPLITS.index(given[n]))
    )
    for number in order:
        if len(classes[keys[number]]) == 1:
            first.setdefault(keys[number], number)
    duplicates = len(examples) - conflicting - len(first)
    return sorted(first.values()), {"given": len(examples), "duplicates": duplicates, "conflicting": conflicting}


def _ordered(numbers: Sequence[int], examples: Sequence[tuple[str, str]], *salt: str) -> list[int]:
    return sorted(numbers, key=lambda number: digest(*salt, examples[number][0]))


def _split(
    members: list[int], examples: Sequence[tuple[str, str]], seed: int, sizes: Sizes, given: Sequence[str] | None
) -> dict[str, list[int]]:
    """The members of one class by split."""
    if given is not None:
        return {split: [number for number in members if given[number] == split] for split in SPLITS}
    ordered = _ordered(members, examples, str(seed), "split")
    test = min(round(sizes.test * len(ordered)), len(ordered) - 1)
    dev = min(round(sizes.dev * len(ordered)), len(ordered) - 1 - test)
    return {"test": ordered[:test], "dev": ordered[test : test + dev], "train": ordered[test + dev :]}


def examples_of(task: Task, split: str) -> Examples:
    """All examples of a split, in the task's order."""
    return take(task, _split_of(task, split))


def draw(task: Task, per_class: int, seed: int, *, split: str = "train") -> Examples:
    """`per_class` examples of each class, in an order that mixes the classes.

    Examples are taken and ordered by digest(seed, text). Draws of one seed are nested: what is drawn for a smaller
    `per_class` is among what is drawn for a larger one, so that curves over the number of examples are paired.

    Raises:
        ValueError: a class has fewer examples in the split.

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
