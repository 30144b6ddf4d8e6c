"""The page of `pmpjax prototypes fit`: accuracy, abstention, confusion, prototypes with their nearest texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pmpjax.evaluation.tasks import Task
from pmpjax.prototypes.fine_tuning.estimator import PrototypeClassifier
from pmpjax.prototypes.fine_tuning.storage import Stored
from pmpjax.runs.page import Note, Section, Table, write_page

_THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)


def write_report(
    path: Path,
    task: Task,
    metrics: Mapping[str, Any],
    stored: Stored,
    probabilities: Float[np.ndarray, "n c"],
    test: Int[np.ndarray, " n"],
) -> None:
    """Writes the page.

    Args:
        metrics: as `run_fit` writes them.
        probabilities: of the test texts.
        test: their numbers in the task.
    """
    sections = [Section("Classes", _classes(task, metrics, stored.model))]
    if len(test):
        sections.append(Section("Abstention", [_abstention(task.labels[test], probabilities)]))
        sections.append(Section("Confusion", _confusion(task, task.labels[test], probabilities)))
    sections.append(Section("Prototypes and their nearest texts", [_prototypes(stored)]))
    write_page(path, f"Prototypes: {task.name}", verdict(metrics), sections)


def verdict(metrics: Mapping[str, Any]) -> str:
    """The run in a sentence."""
    count = f"{sum(metrics['prototypes'].values())} prototypes of {len(metrics['prototypes'])} classes"
    if metrics["accuracy"] is None:
        return f"{count}; no text was left to test them on"
    plain = ", ".join(f"{name} {value:.1%}" for name, value in metrics["baselines"].items())
    return f"{count}: accuracy {metrics['accuracy']:.1%} on {metrics['test']:,} texts that were not fitted ({plain})"


def _classes(task: Task, metrics: Mapping[str, Any], model: PrototypeClassifier) -> list[Any]:
    counts = np.bincount(model.example_labels_, minlength=len(task.classes))
    rows = [[name, f"{counts[place]:,}", str(model.n_prototypes_[place])] for place, name in enumerate(task.classes)]
    parts: list[Any] = [Table(["class", "examples", "prototypes"], rows)]
    if model.levels_:
        head = ["concentration", "held-out loss, nats", "temperature", "held-out accuracy"]
        levels = [
            [f"{one.concentration:g}", f"{one.loss:.4f}", f"{one.temperature:.2f}", f"{one.accuracy:.1%}"]
            for one in model.levels_
        ]
        parts += [Note(f"Cross-validation chose the concentration {model.concentration_:g}."), Table(head, levels)]
    if not model.calibrated_:
        parts.append(Note("A class has one example: probabilities are not calibrated.", warning=True))
    dropped = {name: metrics["task"].get(name, 0) for name in ("duplicates", "conflicting", "rejected")}
    parts.append(Note("Rows left out: " + ", ".join(f"{count:,} {name}" for name, count in dropped.items())))
    return parts


def _abstention(labels: np.ndarray, probabilities: np.ndarray) -> Table:
    rows = []
    right, sure = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    for threshold in _THRESHOLDS:
        kept = sure >= threshold
        rows.append([f"{threshold:g}", f"{kept.mean():.1%}", f"{right[kept].mean():.1%}" if kept.any() else "none"])
    return Table(["threshold", "answered", "accuracy of these"], rows)


def _confusion(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> list[Any]:
    found = np.zeros((len(task.classes),) * 2, int)
    np.add.at(found, (labels, probabilities.argmax(axis=1)), 1)
    rows = [
        [name, *(str(count) if count else "" for count in row)] for name, row in zip(task.classes, found, strict=True)
    ]
    return [Note("Rows are the given classes, columns the predicted ones."), Table(["", *task.classes], rows)]


def _prototypes(stored: Stored) -> Table:
    model, classes = stored.model, np.asarray(stored.model.store_.classes)
    rows = []
    for slot, near in sorted(model.prototype_examples(3).items(), key=lambda item: (classes[item[0]], item[0])):
        texts = [stored.texts[number][:200] for number in near]
        rows.append([str(model.classes_[classes[slot]]), *texts, *[""] * (3 - len(texts))])
    return Table(["class", "nearest text", "second", "third"], rows, equal=True)
