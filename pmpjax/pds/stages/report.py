"""The stage `report`: one page that a person reads."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.data import DocumentTable
from pmpjax.evaluation.figures import draw_scores
from pmpjax.pds.compare import baseline_facts, comparison_table
from pmpjax.pds.stages.evaluate import title
from pmpjax.runs import read_table
from pmpjax.runs.page import Figure, Note, Part, Section, Table, Text, write_page


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the page shows.

    Attributes:
        documents: rows of the table of best and worst documents.
        characters: of each text shown.
    """

    documents: int = 12
    characters: int = 240


def build_report(
    config: ReportConfig,
    metrics: Mapping[str, Any],
    documents: DocumentTable,
    scores: Path,
    selected: np.ndarray,
    curves: Path,
    folder: Path,
) -> None:
    """Fills `folder` with report.html, which holds its figures itself, and scores.png and .pdf.

    Verdict, loss curves, all methods, shares of each origin, histogram of the scores, best and worst documents side by
    side, Pontryagin's conditions, the regressor's quality, what each stage cost.

    Args:
        metrics: `pmpjax.pds.pipeline.metrics_of`.
        scores: the stage score's scores.parquet.
        selected: the first seed's documents.
        curves: a PNG of loss curves.
    """
    score, stages = read_table(scores, "score")["score"], metrics["stages"]
    draw_scores(score, np.unique(selected), stages["solve"]["costate_norms"], folder / "scores")
    sections = [
        Section(None, [Figure(curves, "test loss against step"), *_losses(metrics)]),
        *_methods(metrics),
        Section("What was chosen", [_origins(metrics), Figure(folder / "scores.png", "scores; norm of the costate")]),
        Section("Best and worst documents", [_best_and_worst(config, documents, score)]),
        Section("Pontryagin's conditions", _conditions(stages["solve"])),
        Section("Scores and scorer", [_quality(stages["solve"], stages["fit"])]),
        Section("What each stage cost", [_costs(metrics), Note(_COSTS)]),
        Section("Data", [_data(metrics)]),
    ]
    write_page(folder / "report.html", "Data selection by PDS", metrics["verdict"], sections)


_SEED = "One seed: no interval. --seeds 5 gives one."
_SEEDS = "Lines are means over the seeds, bands reach from the lowest to the highest seed. Intervals are 95% intervals."
_BRANCH = (
    " Lines and steps are of a constant rate. Dots and final losses are the ends of a branch of equal budget, in which "
    "the rate falls to zero over the last {steps} steps."
)
_COSTS = (
    "FLOPs are counted as 2 N D for a forward pass and 6 N D for a gradient, over N parameters in products and D "
    "tokens; the products of attention are left out."
)
_METHODS = (
    "Means over seeds with 95% intervals; differences are paired by seed. Steps are the mean over the seeds that get "
    "there. Seconds and FLOPs are those of choosing the data, and the proxy's training is among them for each method "
    "that needs one."
)
_CONDITIONS = (
    "Uniform weights are not optimal, or there would be nothing to select: the scores are one step towards the "
    "optimum. The condition 'consistency' shows whether they can be trusted."
)


def _losses(metrics: Mapping[str, Any]) -> list[Part]:
    steps = metrics["stages"]["pretrain"]["decay_steps"]
    header = ("final test loss", *(f"seed {seed}" for seed in metrics["seeds"]))
    final = metrics["final_target_loss"]
    rows = [(title(name), *(f"{value:.4f}" for value in values)) for name, values in final.items()]
    lines = _SEEDS if len(metrics["seeds"]) > 1 else _SEED
    return [Note(lines + (_BRANCH.format(steps=steps) if steps else "")), Table(header, rows)]


def _methods(metrics: Mapping[str, Any]) -> Iterator[Section]:
    parts: list[Part] = []
    if "comparison" in metrics:
        header, *rows = comparison_table(metrics["comparison"])
        parts += [Table(header, rows), Note(_METHODS)]
        for name, own in baseline_facts(metrics["stages"]).items():
            parts += [Note(f"{title(name)}: {warning}", warning=True) for warning in own["warnings"]]
    if "receding" in metrics:
        parts.append(Note(receding_verdict(metrics["receding"])))
    if parts:
        yield Section("Methods at equal budgets", parts)


def receding_verdict(found: Mapping[str, Any]) -> str:
    """One sentence on whether new selections pay at equal total cost.

    >>> receding_verdict({"extra_steps": 812.4, "steps": None, "difference": None})
    'Receding horizon: new selections cost as much as 812 training steps, more than the run has; they cannot pay.'
    """
    text = f"Receding horizon: new selections cost as much as {found['extra_steps']:.0f} training steps"
    if found["steps"] is None:
        return f"{text}, more than the run has; they cannot pay."
    difference = found["difference"]
    interval = difference["interval"]
    shown = "" if interval is None else f" (95% interval {interval[0]:+.4f} to {interval[1]:+.4f})"
    pays = "they pay" if interval and interval[1] < 0 else "they do not pay" if difference["mean"] > 0 else "undecided"
    return (
        f"{text}; at equal total cost, after {found['steps']:.0f} steps, the test loss differs from the ordinary "
        f"selection's by {difference['mean']:+.4f}{shown}: {pays}."
    )


def _origins(metrics: Mapping[str, Any]) -> Table:
    header = ("origin", "share of the source's tokens", "share of the selection's tokens")
    shares = metrics["origins"]
    return Table(header, [(name, f"{one['source']:.1%}", f"{one['selection']:.1%}") for name, one in shares.items()])


def _best_and_worst(config: ReportConfig, documents: DocumentTable, score: np.ndarray) -> Table:
    order = np.argsort(-score, kind="stable")
    count = min(config.documents, len(order))
    columns = [
        [
            Text(f"{score[d]:+.3f} {documents.origins[d]}", text[: config.characters])
            for d, text in zip(chosen, documents.texts(chosen), strict=True)
        ]
        for chosen in (order[:count], order[::-1][:count])
    ]
    return Table(("best", "worst"), list(zip(*columns, strict=True)), equal=True)


def _conditions(solve: Mapping[str, Any]) -> list[Part]:
    values = solve["area_under_curve"]
    curve = " → ".join(f"{value:.4f}" for value in values)
    summary = (
        f"Area under the desired loss curve of the proxy's run: {curve} ({len(values)} "
        f"sweep{'s' if len(values) > 1 else ''}). {solve['health']}. The weights of the last sweep are as many as "
        f"{solve['effective_instances']:.0f} equal ones of {solve['instances']}."
    )
    first = {check["name"]: f"{check['value']:.3g}" for check in solve["conditions"]["first"]}
    header = ("condition", "what it is", "uniform weights", "last weights", "tolerance", "at the last")
    rows = [
        (
            check["name"],
            check["meaning"],
            first.get(check["name"], ""),
            f"{check['value']:.3g}",
            f"{check['tolerance']:.0e}",
            "holds" if check["holds"] else "does not hold",
        )
        for check in solve["conditions"]["last"]
    ]
    return [Note(summary), Table(header, rows), Note(_CONDITIONS)]


def _quality(solve: Mapping[str, Any], fit: Mapping[str, Any]) -> Table:
    batch, time, preview, rows = solve["batch_estimator"], solve["over_time"], solve["preview"] or {}, fit["rows"]
    held_out, train = (_show(fit["spearman"][part]) for part in ("held_out", "train"))
    steps = f"{_show(time['spearman'])}, {_show(time['deviation'])} ({time['evaluated']} steps)"
    both = f"{_show(preview.get('spearman'))}, added for the score"
    estimates = ", ".join(_show(batch[name]) for name in ("spearman", "slope", "residual"))
    return Table(
        ("what", "value"),
        [
            ("scorer: Spearman on held-out documents", f"{held_out} ({rows['held_out']} rows)"),
            ("scorer: Spearman on its training part", f"{train} ({rows['asked']} of {rows['train']} rows)"),
            ("scorer: mean squared error at the end of training", _show(fit["final_mse"])),
            (
                "score against the estimate from an instance's own batches: Spearman, slope, noise to signal",
                f"{estimates} ({batch['met']} rows)",
            ),
            (
                "score at one step of the sweep against the other steps': Spearman, deviation",
                steps if time["evaluated"] > 1 else "evaluated at the first step alone",
            ),
            (
                "score of the trajectory on text as it comes against that on the selection: Spearman",
                both if "spearman" in preview else "one trajectory: there is no other to compare with",
            ),
        ],
    )


def _costs(metrics: Mapping[str, Any]) -> Table:
    flops = metrics["stage_flops"]
    training = flops["pretrain"] / len(metrics["stages"]["pretrain"]["runs"])
    rows = [
        (name, f"{seconds:.1f}", *((f"{spent:.2e}", f"{spent / training:.1%}") if spent else ("", "")))
        for name, seconds in metrics["stage_seconds"].items()
        for spent in [flops.get(name, 0.0)]
    ]
    return Table(("stage", "seconds", "FLOPs", "of one model's pretraining"), rows)


def _data(metrics: Mapping[str, Any]) -> Table:
    passes = metrics["stages"]["pretrain"].get("passes", {})  # older versions' runs have none
    counts = ("selected_fraction", "duplicates_removed", "leaks_removed", "rejected_rows")
    rows = [(name.replace("_", " "), _show(metrics[name])) for name in counts]
    return Table(("what", "number"), [("passes over the selection", ", ".join(map(_show, passes.values()))), *rows])


def _show(value: Any) -> str:
    if value is None:
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
