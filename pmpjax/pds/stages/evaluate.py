"""The stage `evaluate`: what the selection is worth, on the target's test split."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.runs import write_json
from pmpjax.statistics import Speedup, estimate, paired_difference, smooth, speedup
from pmpjax.train.branch import DECAYED

METHOD = "pds"
BASELINE = "random"
RECEDING = "pds-receding"
TITLES = {
    "pds": "PDS",
    RECEDING: "PDS, receding horizon",
    "dsir": "DSIR",
    "rho-loss": "RHO-Loss",
    "gradient-similarity": "gradient similarity",
}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How curves are compared.

    Attributes:
        smoothing: points of the curve averaged before a crossing is looked for, odd.
    """

    smoothing: int = 3


def build_evaluate(
    config: EvaluateConfig, curves: dict[tuple[str, int], dict[str, Any]], method: str, folder: Path
) -> None:
    """Compares `method` with the baseline, seed by seed; leaves evaluation.json, curves.png and curves.pdf in `folder`.

    evaluation.json: `speedup` {test, dev}: per seed the ratio, null where never reached; `steps_needed` likewise;
    `final_loss` {test, dev} {method: per seed}: at the end of the decay branch, without one the curve's last;
    `constant_rate_loss`, the curve's last, which the speed-up is about; `verdict`, a sentence about the test split.

    Where `curves` has rivals, also `arms` {method: speedup and steps_needed of each, as above} and `difference`
    {test, dev} {other: `paired_difference` of the final losses, `method` minus the other}.
    """
    seeds = sorted({seed for _, seed in curves})
    rivals = [name for name in dict.fromkeys(name for name, _ in curves) if name not in (method, BASELINE)]
    methods = [method, BASELINE, *rivals]
    result: dict[str, Any] = {"seeds": seeds, "speedup": {}, "steps_needed": {}}
    result |= {"final_loss": {}, "constant_rate_loss": {}}
    arms: dict[str, Any] = {name: {"speedup": {}, "steps_needed": {}} for name in methods}
    found: dict[tuple[str, str], list[Speedup]] = {}
    for split in ("test", "dev"):
        for name in methods:
            found[split, name] = [
                speedup(
                    curves[name, seed]["steps"],
                    curves[name, seed][split],
                    curves[BASELINE, seed][split],
                    config.smoothing,
                )
                for seed in seeds
            ]
            arms[name]["speedup"][split] = [one.ratio for one in found[split, name]]
            arms[name]["steps_needed"][split] = [one.steps for one in found[split, name]]
        result["constant_rate_loss"][split] = {
            name: [float(smooth(curves[name, seed][split], config.smoothing)[-1]) for seed in seeds] for name in methods
        }
        result["final_loss"][split] = {
            name: [float(curves[name, seed].get(DECAYED + split, last)) for seed, last in zip(seeds, ends, strict=True)]
            for name, ends in result["constant_rate_loss"][split].items()
        }
    result |= arms[method]
    result["verdict"] = verdict(found["test", method])
    if rivals:
        result["arms"] = arms
        result["difference"] = {
            split: {name: paired_difference(final[method], final[name]) for name in methods if name != method}
            for split, final in result["final_loss"].items()
        }
    write_json(folder / "evaluation.json", result)
    draw_curves(curves, methods, folder / "curves", config.smoothing)


def title(method: str) -> str:
    """The method as it is written on a page.

    >>> title("rho-loss"), title("influence")
    ('RHO-Loss', 'influence')
    """
    return TITLES.get(method, method)


def verdict(found: list[Speedup]) -> str:
    """One sentence, whatever the figure.

    >>> verdict([Speedup(310.0, 600, 600 / 310)])
    "selected data reaches the random run's final test loss in 310 of 600 steps (1.94x)"
    >>> verdict([Speedup(None, 600, None)])
    "selected data never reaches the random run's final test loss in 600 steps (1 seed)"
    """
    total = found[0].total
    reached = [one for one in found if one.steps is not None and one.ratio is not None]
    if not reached:
        plural = "s" if len(found) > 1 else ""
        return (
            f"selected data never reaches the random run's final test loss in {total} steps ({len(found)} seed{plural})"
        )
    steps = estimate([one.steps for one in reached if one.steps is not None])
    ratio = estimate([one.ratio for one in reached if one.ratio is not None])
    text = f"selected data reaches the random run's final test loss in {steps.mean:.0f} of {total} steps"
    text += f" ({ratio.mean:.2f}x"
    if len(found) > 1:
        spread = "" if ratio.half_width is None else f" +- {ratio.half_width:.2f}"
        text += f"{spread}, mean over {len(reached)} seeds"
    text += ")"
    if len(reached) < len(found):
        text += f"; on {len(found) - len(reached)} of {len(found)} seeds it never does"
    return text


def draw_curves(
    curves: dict[tuple[str, int], dict[str, Any]], methods: list[str], path: Path, smoothing: int = 3
) -> None:
    """Test loss against step for each method, seeds as a band, with the step at which the baseline's end is reached;
    each seed's end of the decay branch a dot.

    `methods`: the one judged, the baseline, and rivals, beside which the baseline steps back into a dashed grey.
    """
    from pmpjax.runs.plots import band, figure

    seeds = sorted({seed for _, seed in curves})
    steps = curves[methods[0], seeds[0]]["steps"]
    losses = {name: np.stack([curves[name, seed]["test"] for seed in seeds]) for name in methods}
    labels = {name: _label(name) for name in methods}
    several = len(methods) > 2
    width, height = (5.4, 3.6) if several else (4.6, 3.0)
    with figure(path, width=width, height=height) as (_, axes):
        panel = axes[0, 0]
        for name in [name for name in methods if name != BASELINE or not several]:
            band(panel, steps, losses[name], labels[name])
        if several:
            band(panel, steps, losses[BASELINE], labels[BASELINE], "#777777")
            panel.lines[-1].set_linestyle("--")
            panel.lines[0].set_zorder(3)  # the one judged, above rivals that come as low
        mean = {name: losses[name].mean(0) for name in methods}
        one = speedup(steps, mean[methods[0]], mean[BASELINE], smoothing)
        level = float(smooth(mean[BASELINE], smoothing)[-1])
        falls = all(DECAYED + "test" in curve for curve in curves.values())
        if falls:
            _draw_branches(panel, curves, methods)
        panel.axhline(level, color="#888888", linewidth=0.7, linestyle=":")
        if one.steps is not None:
            panel.plot([one.steps, one.total], [level, level], color="#555555", linewidth=0.9, marker="|", markersize=6)
            text = f"{one.steps:.0f} of {one.total} steps ({one.ratio:.2f}x)"
            if several:  # under the line there are the rivals
                said = f"{title(methods[0])} reaches random's end in\n{text}"
                panel.text(0.02, 0.04, said, transform=panel.transAxes, va="bottom", fontsize=8)
            else:
                panel.annotate(
                    text,
                    (one.total, level),
                    xytext=(-12, -4),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    fontsize=8,
                )
        # The first measurements, of the random init, would squeeze what matters.
        shown = np.concatenate([rows[:, len(steps) // 10 + 1 :].ravel() for rows in losses.values()])
        if falls:
            shown = np.append(shown, [curve[DECAYED + "test"] for curve in curves.values()])
        margin = 0.06 * np.ptp(shown)
        panel.set_ylim(shown.min() - margin, shown.max() + margin)
        panel.set_xlabel("training step")
        panel.set_ylabel("test loss on the target (nats a token)")
        panel.legend(loc="upper right")


def _draw_branches(panel: Any, curves: dict[tuple[str, int], dict[str, Any]], methods: list[str]) -> None:
    """A dot where each seed's decay branch ends, beside the last step, in the colour of the method's line; each method
    has its own column, so that none hides another."""
    colours = {line.get_label(): line.get_color() for line in panel.lines}
    ordered = [name for name in methods if name != BASELINE] + [BASELINE]
    for column, name in enumerate(ordered, 1):
        ends = [
            (one["steps"][-1] * (1 + 0.015 * column), float(one[DECAYED + "test"]))
            for (of, _), one in curves.items()
            if of == name
        ]
        colour = colours[_label(name)]
        panel.plot(*zip(*ends, strict=True), linestyle="", marker="o", markersize=2.5, color=colour, clip_on=False)


def _label(method: str) -> str:
    return "random data" if method == BASELINE else f"selected by {title(method)}"


def load_evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json of the stage."""
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
