"""Pictures with true and predicted boxes, figures, and the page of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from pmpjax.multimodal.boxes import checked
from pmpjax.multimodal.tasks import Question
from pmpjax.runs.files import atomic
from pmpjax.runs.page import Figure, Note, Section, Table, write_page
from pmpjax.runs.plots import COLOURS, figure

_COLUMNS = 4
_TRUE, _FOUND = "white", COLOURS[1]


class Shown(NamedTuple):
    """question: with its true boxes. found: [n, 4] the model's."""

    question: Question
    found: Float[np.ndarray, "n 4"]


def draw_boxes(
    path: Path | str, image: UInt8[np.ndarray, "y x 3"], boxes: Float[np.ndarray, "n 4"], colour: str = _FOUND
) -> None:
    """Writes the image with boxes [n, 4], from 0 to 1, as PNG: at least 256 pixels wide, lines a hundredth of it."""
    scale = max(1, -(-256 // image.shape[1]))
    drawn = Image.fromarray(np.repeat(np.repeat(image, scale, axis=0), scale, axis=1))
    sides = np.array([drawn.width, drawn.height] * 2)
    pen, line = ImageDraw.Draw(drawn), max(2, drawn.width // 100)
    for box in checked(boxes) * sides:
        left, top, right, bottom = (round(float(at)) for at in box)
        pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=line)
    with atomic(Path(path)) as temporary:
        drawn.save(temporary, format="PNG")


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence about phrase grounding."""
    recall = metrics["recall"]
    return (
        f"A phrase's box is right (IoU at least 0.5) for {recall['phrases']:.1%} of the phrases, "
        f"{recall['phrases_blank']:.1%} with the image blanked; location tokens allow {recall['phrases_ceiling']:.1%}."
    )


def table(metrics: Mapping[str, Any]) -> Table:
    """Every task: the model, the blanked image, the ceiling of the location tokens."""
    recall, overlap, rejection, naming = (metrics[name] for name in ("recall", "mean_iou", "rejection", "naming"))

    def row(title: str, name: str) -> list[str]:
        ends = (name, f"{name}_blank", f"{name}_ceiling")
        return [title, *(f"{recall[end]:.1%}" if end in recall else "" for end in ends), f"{overlap[name]:.2f}"]

    rows = [
        row("phrase grounding, R@1", "phrases"),
        row("held-out colour and shape, R@1", "held_out"),
        *([row("referring comprehension, accuracy", "referring")] if "referring" in recall else []),
        ["naming a box, 30 options", f"{naming['accuracy']:.1%}", f"{naming['chance']:.1%}", "", ""],
        ["naming a box of held-out kind", f"{naming['held_out']:.1%}", f"{naming['chance']:.1%}", "", ""],
        ["absent phrases rejected", f"{rejection['absent']:.1%}", "", "", ""],
        ["present phrases rejected", f"{rejection['phrases']:.1%}", "", "", ""],
    ]
    rows += [
        [f"captions with a box, switch {title}", f"{metrics['switch'][name]:.1%}", "", "", ""]
        for title, name in (("on", "with_boxes"), ("off", "without"))
    ]
    return Table(["task", "model", "image blanked, or chance", "ceiling of the locations", "mean IoU"], rows)


def write_report(
    directory: Path, metrics: Mapping[str, Any], curves: Mapping[str, np.ndarray], shown: Sequence[Shown]
) -> None:
    """Writes pictures, losses and recall as PNG and PDF, and report.html."""
    _draw_pictures(directory / "pictures", shown)
    _draw_losses(directory / "losses", curves)
    _draw_recall(directory / "recall", metrics["recall"])
    sections = [
        Section(
            "Pictures",
            [
                Note(
                    "White: where it is; orange: where the model finds it. Rows: phrases, referring expressions, "
                    "compositions of colour and shape that training never showed, phrases that fit nothing."
                ),
                Figure(directory / "pictures.png", "scenes with true and predicted boxes"),
            ],
        ),
        Section("Tasks", [Figure(directory / "recall.png", "R@1 of the tasks"), table(metrics)]),
        Section("Losses", [Figure(directory / "losses.png", "losses by step")]),
    ]
    write_page(directory / "report.html", "Kosmos on generated scenes", verdict(metrics), sections)


def _draw_pictures(path: Path, shown: Sequence[Shown]) -> None:
    rows = -(-len(shown) // _COLUMNS)
    with figure(path, rows, _COLUMNS, width=1.9, height=2.1) as (_, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, one in zip(axes.flat, shown, strict=False):
            height, width = one.question.image.shape[:2]
            axis.imshow(one.question.image, extent=(0, 1, 1, 0), aspect=height / width)
            answer = "" if len(one.found) else "\n(not here)"
            axis.set_title(one.question.phrase + answer, fontsize=7)
            for boxes, colour, line in ((one.question.boxes, _TRUE, 2.4), (one.found, _FOUND, 1.4)):
                for left, top, right, bottom in boxes.tolist():
                    size = (right - left, bottom - top)
                    axis.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=colour, linewidth=line))


def _draw_losses(path: Path, curves: Mapping[str, np.ndarray]) -> None:
    with figure(path) as (_, axes):
        axis = axes[0, 0]
        axis.plot(np.arange(len(curves["losses"])), curves["losses"], label="training", alpha=0.4)
        for name in ("text", "locations"):
            axis.plot(curves["steps"], curves[name], label=f"held out, {name}")
        axis.set(xlabel="step", ylabel="nats per token")
        axis.legend()


def _draw_recall(path: Path, recall: Mapping[str, float]) -> None:
    names = {"phrases": "phrases", "held_out": "held-out\nkinds", "referring": "referring"}
    with figure(path) as (_, axes):
        axis = axes[0, 0]
        for shift, (ending, label) in enumerate((("", "model"), ("_blank", "image blanked"), ("_ceiling", "ceiling"))):
            found = {at: recall[name + ending] for at, name in enumerate(names) if name + ending in recall}
            axis.bar([at + 0.27 * (shift - 1) for at in found], list(found.values()), 0.25, label=label)
        axis.set_xticks(range(len(names)), list(names.values()))
        axis.set(ylabel="R@1", ylim=(0, 1.05))
        axis.legend()
