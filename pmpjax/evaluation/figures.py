"""The figure of a comparison: loss curves of several methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.evaluation.comparison import Curves
from pmpjax.statistics import smooth, speedup
from pmpjax.train.branch import DECAYED


def draw_curves(curves: Curves, labels: Mapping[str, str], path: Path, smoothing: int = 3) -> None:
    """Draws the test loss against the step for each method, seeds as a band, and each seed's end of the decay branch as
    a dot, with the step at which the baseline's last loss is reached.

    Args:
        labels: {method: its text in the legend}: first the method judged, then the baseline, which is dashed and grey
            where others follow.
        path: of the PNG and the PDF, without their endings.
    """
    from pmpjax.runs.plots import band, figure  # matplotlib, only for those who draw

    (judged, baseline), several = list(labels)[:2], len(labels) > 2
    steps = next(curves[name, seed]["steps"] for name, seed in curves if name == judged)
    losses = {
        name: np.stack([curve["test"] for (of, _), curve in sorted(curves.items()) if of == name]) for name in labels
    }
    ends = [curve[DECAYED + "test"] for curve in curves.values() if DECAYED + "test" in curve]
    with figure(path, width=5.4 if several else 4.6, height=3.6 if several else 3.0) as (_, axes):
        panel = axes[0, 0]
        for name in [name for name in labels if name != baseline or not several]:
            band(panel, steps, losses[name], labels[name])
        if several:
            band(panel, steps, losses[baseline], labels[baseline], "#777777")
            panel.lines[-1].set_linestyle("--")
            panel.lines[0].set_zorder(3)  # the one judged, above others that come as low
        if len(ends) == len(curves):
            _draw_branches(panel, curves, labels)
        _draw_speedup(panel, steps, losses, labels, smoothing)
        # The first measurements, of the random init, would squeeze what matters.
        shown = np.concatenate([rows[:, len(steps) // 10 + 1 :].ravel() for rows in losses.values()])
        shown = np.append(shown, ends if len(ends) == len(curves) else [])
        margin = 0.06 * np.ptp(shown)
        panel.set_ylim(shown.min() - margin, shown.max() + margin)
        panel.set_xlabel("training step")
        panel.set_ylabel("test loss on the target (nats per token)")
        panel.legend(loc="upper right")


def _draw_speedup(
    panel: Any, steps: np.ndarray, losses: Mapping[str, np.ndarray], labels: Mapping[str, str], smoothing: int
) -> None:
    """The level of the baseline's last loss, and how many steps the judged method is ahead there."""
    judged, baseline = list(labels)[:2]
    mean = losses[baseline].mean(0)
    one, level = speedup(steps, losses[judged].mean(0), mean, smoothing), float(smooth(mean, smoothing)[-1])
    panel.axhline(level, color="#888888", linewidth=0.7, linestyle=":")
    if one.steps is None:
        return
    panel.plot([one.steps, one.total], [level, level], color="#555555", linewidth=0.9, marker="|", markersize=6)
    text = f"{one.steps:.0f} of {one.total} steps ({one.ratio:.2f}x)"
    if len(labels) > 2:  # the other methods are below the line
        text = f"{labels[judged]}: end of {labels[baseline]}\nin {text}"
        panel.text(0.02, 0.04, text, transform=panel.transAxes, va="bottom", fontsize=8)
    else:
        where = {"xytext": (-12, -4), "textcoords": "offset points", "ha": "right", "va": "top"}
        panel.annotate(text, (one.total, level), fontsize=8, **where)


def _draw_branches(panel: Any, curves: Curves, labels: Mapping[str, str]) -> None:
    """A dot where each seed's decay branch ends, behind the last step, in the colour of the method's line; each method
    has its own column, so that none hides another."""
    colours = {line.get_label(): line.get_color() for line in panel.lines}
    judged, baseline, *others = labels
    for column, name in enumerate((judged, *others, baseline), 1):
        found = [
            (one["steps"][-1] * (1 + 0.015 * column), float(one[DECAYED + "test"]))
            for (of, _), one in curves.items()
            if of == name
        ]
        style: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 2.5, "clip_on": False}
        panel.plot(*zip(*found, strict=True), color=colours[labels[name]], **style)


def draw_scores(scores: np.ndarray, selected: np.ndarray, costate_norms: Sequence[float], path: Path) -> None:
    """Histogram of the documents' scores, those of the selection in front, and |d_t| along the proxy's run.

    d_t is what the gradients are multiplied with: the costate pulled back through the optimizer's update, so that the
    costates of Adam's moments are not in its norm.

    Args:
        scores: [D]. selected: indices of documents. costate_norms: [T].
    """
    from pmpjax.runs.plots import COLOURS, figure

    # A few documents far outside would squeeze the rest.
    low, high = np.quantile(scores, [0.005, 0.995])
    edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 3)
    with figure(path, columns=2, width=3.6, height=2.4) as (_, axes):
        left, right = axes[0]
        clipped = np.clip(scores, edges[0], edges[-1])
        left.hist(clipped, edges, color="#b8b8b8", label="all documents")
        left.hist(clipped[selected], edges, color=COLOURS[0], alpha=0.8, label="selected")
        left.set_xlabel("score, standardised")
        left.set_ylabel("documents")
        left.legend(loc="upper right")
        right.plot(np.arange(len(costate_norms)), costate_norms)
        right.set_ylim(bottom=0)
        right.set_xlabel("step of the proxy's run")
        right.set_ylabel("norm of the parameters' costate")
