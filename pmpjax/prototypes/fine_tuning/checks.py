"""What may be fitted: embeddings and labels, checked with the row that is wrong."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class DuplicateWarning(UserWarning):
    """Equal embeddings were given several times, or with several labels."""


class Data(NamedTuple):
    """Checked examples.

    Fields:
        states: float32.
        labels: places in `classes`.
        classes: sorted.
        groups: equal for rows with equal embeddings: they stay on one side of a held-out part.
    """

    states: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    classes: np.ndarray
    groups: Int[np.ndarray, " n"]


def checked_states(given: Any, width: int | None = None) -> Float[np.ndarray, "n d"]:
    """Embeddings as float32 [N, D].

    Raises ValueError: no numbers [N, D], none at all, values that are not finite, another width than was fitted.
    """
    try:
        states = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "X is no array of numbers [texts, width]; embed texts first, see pmpjax.prototypes.fine_tuning.texts"
        ) from error
    if states.ndim != 2 or 0 in states.shape:
        raise ValueError(f"X has the shape {list(states.shape)}, expected [texts, width], with one text at least")
    wrong = np.flatnonzero(~np.isfinite(states).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(states)} embeddings, the first of them row {wrong[0]}, hold NaN or infinite values; "
            "leave these texts out"
        )
    if width is not None and states.shape[1] != width:
        raise ValueError(f"embeddings have {states.shape[1]} coordinates, {width} were fitted; use the same encoder")
    return states


def checked_data(given: Any, labels: Any, expected: Any = None) -> Data:
    """Embeddings and labels that can be fitted.

    Warns (DuplicateWarning) of equal embeddings: a copy counts as often as it is given, and never stands on both sides
    of a held-out part; of those with several labels, all count.

    Args:
        expected: classes that must all be there; None takes those of the labels.

    Raises ValueError: as `checked_states`; another number of labels than of embeddings; more classes than
    observations; an expected class without an example; a label that is not expected; fewer than two classes;
    embeddings that are all equal.
    """
    states = checked_states(given)
    labels = np.asarray(labels)
    if labels.shape != (len(states),):
        raise ValueError(f"labels have the shape {list(labels.shape)} for {len(states)} embeddings; give one for each")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"label of row {int(np.argmax(~np.isfinite(labels)))} is not finite; give it a class")
    classes, numbers = np.unique(labels, return_inverse=True)
    if expected is not None:
        wanted = np.unique(np.asarray(expected))
        if len(wanted) > len(states):
            raise ValueError(f"{len(wanted)} classes, but {len(states)} examples; give one of each class at least")
        empty, unknown = np.setdiff1d(wanted, classes), np.setdiff1d(classes, wanted)
        if len(empty):
            raise ValueError(f"class {empty[0]!s} has no example; give one at least, or leave it out of classes")
        if len(unknown):
            raise ValueError(f"label {unknown[0]!s} is none of the classes; add it to them, or drop its examples")
    if len(classes) < 2:
        raise ValueError(f"labels hold {len(classes)} class, expected two at least")
    _, first, groups = np.unique(states, axis=0, return_index=True, return_inverse=True)
    groups = groups.reshape(-1)
    if len(first) == 1:
        raise ValueError(f"the {len(states)} embeddings are all equal; look at the texts and their encoder")
    copies = len(states) - len(first)
    if copies:
        pairs = len(np.unique(np.stack([groups, numbers]), axis=1).T)
        several = f", {pairs - len(first)} of them with another label" if pairs > len(first) else ""
        warnings.warn(
            f"{copies} of {len(states)} embeddings repeat an earlier one{several}; each counts, drop them if it should "
            "not",
            DuplicateWarning,
            stacklevel=4,
        )
    return Data(states, numbers, classes, groups)


def checked_class_weights(given: Any, data: Data) -> Float[np.ndarray, " n"]:
    """The weight of each example: 1 (None), N / (C N_c) ("balanced"), or by class from a mapping; mean 1.

    Raises ValueError: another word, a class of the mapping that is not there, a weight that is not above 0.
    """
    counts = np.bincount(data.labels)
    if given is None:
        by_class = np.ones(len(counts))
    elif isinstance(given, str) and given == "balanced":
        by_class = len(data.labels) / (len(counts) * counts)
    elif isinstance(given, Mapping):
        unknown = [label for label in given if label not in data.classes]
        if unknown:
            raise ValueError(f"class_weight names {unknown[0]!r}, the classes are {', '.join(map(str, data.classes))}")
        by_class = np.asarray([given.get(label, 1.0) for label in data.classes.tolist()], float)
    else:
        raise ValueError(f"class_weight is {given!r}, expected None, 'balanced' or a mapping from class to weight")
    wrong = np.flatnonzero(~(np.isfinite(by_class) & (by_class > 0)))
    if len(wrong):
        raise ValueError(
            f"class_weight of {data.classes[wrong[0]]!s} is {by_class[wrong[0]]}, expected a number above 0"
        )
    weights = by_class[data.labels]
    return (weights / weights.mean()).astype(np.float32)
