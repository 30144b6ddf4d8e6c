"""The page of `pmpjax context predict`: accuracy, confusion, how much groups differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pmpjax.runs import plots
from pmpjax.runs.page import Figure, Note, Part, Section, Table, write_page

_METHOD = (
    "Each group of demonstrations was encoded once, by itself; a text sees all of them, its own tokens weighted by the "
    "number of groups unless the options say otherwise. A label is the option of highest mean log-probability."
)


def confusion(
    labels: Int[np.ndarray, " n"], chosen: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """How many texts of each class (row) were given each label (column).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    found = np.zeros((classes, classes), int)
    np.add.at(found, (labels, chosen), 1)
    return found


def verdict(metrics: Mapping[str, Any]) -> str:
    """The run in a sentence."""
    count = f"{metrics['texts']:,} texts behind {metrics['groups']} groups of demonstrations"
    if "accuracy" not in metrics:
        return f"{count}; they have no labels to compare with"
    alone = metrics.get("each group alone")
    among = ""
    if alone:
        each = alone["accuracies"]
        among = (
            f"; on {alone['texts']} of them {alone['together']:.1%} behind all groups, and behind one alone "
            f"{min(each):.1%} to {max(each):.1%}"
        )
    return f"{count}: accuracy {metrics['accuracy']:.1%}{among}"


def write_report(path: Path, metrics: Mapping[str, Any], classes: Sequence[str], built: Mapping[str, Any]) -> None:
    """Writes the page, and groups.png and .pdf in its folder where groups were asked alone.

    Args:
        metrics: as `pmpjax.contexts.structured_prompting.command.predict` writes them.
        built: options of `pmpjax context build`.
    """
    sections = [Section(None, [Note(_METHOD)]), Section("Labels", _labels(metrics, classes))]
    groups = _groups(path.parent / "groups", metrics)
    if groups:
        sections.append(Section("Groups", groups))
    rows = [(name, str(value)) for name, value in built.items() if value not in (None, "")]
    sections.append(Section("The context", [Table(("option", "value"), rows)]))
    write_page(path, "Answers behind a context", verdict(metrics), sections)


def _labels(metrics: Mapping[str, Any], classes: Sequence[str]) -> list[Part]:
    if "confusion" not in metrics:
        rows = [(name, f"{metrics['predicted'][name]:,}") for name in classes]
        return [Table(("label", "texts"), rows)]
    counts = np.asarray(metrics["confusion"])
    rows = []
    for place, (name, row) in enumerate(zip(classes, counts, strict=True)):
        share = f"{row[place] / row.sum():.1%}" if row.sum() else "no text"
        rows.append((name, *(str(count) if count else "" for count in row), share))
    note = Note("Rows are the given classes, columns the predicted ones; the last column is the share of right ones.")
    return [note, Table(("", *classes, "right"), rows)]


def _groups(picture: Path, metrics: Mapping[str, Any]) -> list[Part]:
    alone, weights = metrics.get("each group alone"), metrics.get("log weights")
    columns: dict[str, list[str]] = {}
    parts: list[Part] = []
    if alone:
        each = np.asarray(alone["accuracies"])
        columns["accuracy alone"] = [f"{value:.1%}" for value in each]
        deviation = f", standard deviation {each.std(ddof=1):.1%}" if len(each) > 1 else ""
        parts.append(
            Note(
                f"{alone['texts']} texts were also answered behind each group alone: mean {each.mean():.1%}{deviation}"
                f"; behind all groups together {alone['together']:.1%}."
            )
        )
        with plots.figure(picture) as (_, axes):
            axes[0, 0].bar(np.arange(len(each)), 100 * each)
            axes[0, 0].axhline(100 * alone["together"], color="black", linestyle="--", label="all groups together")
            axes[0, 0].set(xlabel="group", ylabel="accuracy, %", ylim=(0, 119), yticks=range(0, 101, 25))
            axes[0, 0].legend(loc="upper right")
        parts.append(Figure(picture.with_suffix(".png"), "accuracy behind each group alone, and behind all"))
    if weights:
        columns["learned log-weight"] = [f"{value:+.3f}" for value in weights]
    if columns:
        rows = [(str(group), *cells) for group, cells in enumerate(zip(*columns.values(), strict=True))]
        parts.append(Table(("group", *columns), rows))
    return parts
