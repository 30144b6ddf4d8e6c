"""From labelled texts to a task: copies dropped and counted, classes chosen, splits that share no text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pmpjax.data.documents import digest
from pmpjax.data.duplicates import normalised
from pmpjax.evaluation.tasks.task import Task

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
    # Not in the order in which they were kept: there a class that `per_class` cut hard stands before the others.
    ordered = _ordered([number for numbers in chosen.values() for number in numbers], examples, "order")
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
