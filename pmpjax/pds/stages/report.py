"""The stage `report`: one page that a person reads."""

import base64
import dataclasses
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pmpjax.data import DocumentTable
from pmpjax.pds.compare import comparison_table
from pmpjax.pds.figures import draw_scores
from pmpjax.pds.stages.evaluate import title
from pmpjax.runs import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #0072b2; padding: .4rem .8rem; background: #f2f7fb; }
table { border-collapse: collapse; width: 100%; } tr { border-bottom: 1px solid #e6e6e6; } img { max-width: 100%; }
td, th { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top; font-variant-numeric: tabular-nums; }
table.beside { table-layout: fixed; } .beside td { width: 50%; overflow-wrap: anywhere; }
pre { font: 12px/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; }
.fails { color: #a33b00; }
"""


_LINE = "One seed: no interval. <code>--seeds 5</code> gives one."
_LINES = (
    "Lines are means over the seeds, bands reach from the lowest to the highest seed; 95% intervals stand in the text."
)
_BRANCH = (
    " Lines and steps are of a constant rate. Dots and final losses are the ends of a branch of equal budget, in which "
    "the rate falls to zero over the last {steps} steps."
)


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
    side, Pontryagin's conditions, the scorer's quality, what each stage cost.

    Args:
        metrics: `pmpjax.pds.summary.metrics_of`.
        scores: the stage score's scores.parquet.
        selected: the first seed's documents.
        curves: a PNG of loss curves.
    """
    worth = np.asarray(pq.read_table(scores, columns=["score"])["score"])
    stages = metrics["stages"]
    draw_scores(worth, np.unique(selected), stages["solve"]["costate_norms"], folder / "scores")
    final = metrics["final_target_loss"]
    lines = (_LINES if len(metrics["seeds"]) > 1 else _LINE) + _branch(stages["pretrain"]["decay_steps"])
    passes = stages["pretrain"].get("passes", {})  # older versions' runs have none
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>PDS run</title>",
        f"<style>{_STYLE}</style><h1>Data selection by PDS</h1>",
        f"<p class='verdict'>{html.escape(metrics['verdict'])}</p>",
        _image(curves, "test loss against step"),
        f"<p>{lines}</p>",
        _table(
            ("final test loss", *(f"seed {seed}" for seed in metrics["seeds"])),
            [(title(name), *(f"{value:.4f}" for value in values)) for name, values in final.items()],
        ),
        *_methods(metrics),
        "<h2>What was chosen</h2>",
        _table(
            ("origin", "share of the source's tokens", "share of the selection's tokens"),
            [
                (name, *(f"{share[of]:.1%}" for of in ("source", "selection")))
                for name, share in metrics["origins"].items()
            ],
        ),
        _image(folder / "scores.png", "histogram of scores; norm of the costate's direction"),
        "<h2>Best and worst documents</h2>",
        _best_and_worst(config, documents, worth),
        *_conditions(stages["solve"]),
        *_quality(stages["solve"], stages["fit"]),
        "<h2>What each stage cost</h2>",
        _costs(metrics),
        "<p>FLOPs are counted as 2 N D a forward pass and 6 N D a gradient over N parameters in products and D tokens; "
        "the products of attention are left out.</p>",
        "<h2>Data</h2>",
        _table(
            ("what", "number"),
            [
                ("passes over the selection", ", ".join(map(_show, passes.values()))),
                *(
                    (name.replace("_", " "), _show(metrics[name]))
                    for name in ("selected_fraction", "duplicates_removed", "leaks_removed", "rejected_rows")
                ),
            ],
        ),
        "</html>",
    ]
    write_text(folder / "report.html", "\n".join(parts) + "\n")


def _branch(steps: int) -> str:
    return _BRANCH.format(steps=steps) if steps else ""


def _methods(metrics: Mapping[str, Any]) -> Iterable[str]:
    if "comparison" in metrics:
        yield "<h2>Methods at equal budgets</h2>"
        header, *rows = comparison_table(metrics["comparison"])
        yield _table(header, rows)
        yield (
            "<p>Means over seeds with 95% intervals; PDS minus the other is paired by seed. Steps are the mean over "
            "the seeds that get there. Seconds and FLOPs are those of choosing the data, and the proxy's training is "
            "among them for each method that needs one.</p>"
        )
        for name, own in metrics["stages"].get("baselines", {"methods": {}})["methods"].items():
            for warning in own["warnings"]:
                yield f"<p class='fails'>{html.escape(title(name))}: {html.escape(warning)}</p>"
    if "receding" in metrics:
        yield f"<p>{html.escape(receding_verdict(metrics['receding']))}</p>"


def receding_verdict(found: Mapping[str, Any]) -> str:
    """One sentence on whether selecting anew pays at equal total cost.

    >>> receding_verdict({"extra_steps": 812.4, "steps": None, "difference": None})
    'Receding horizon: selecting anew costs as much as 812 training steps, more than the whole run; it cannot pay here.'
    """
    text = f"Receding horizon: selecting anew costs as much as {found['extra_steps']:.0f} training steps"
    if found["steps"] is None:
        return f"{text}, more than the whole run; it cannot pay here."
    difference = found["difference"]
    interval = difference["interval"]
    shown = "" if interval is None else f" (95% interval {interval[0]:+.4f} to {interval[1]:+.4f})"
    pays = "it pays" if interval and interval[1] < 0 else "it does not pay" if difference["mean"] > 0 else "undecided"
    return (
        f"{text}; at equal total cost, after {found['steps']:.0f} steps, its test loss differs from the ordinary "
        f"selection's by {difference['mean']:+.4f}{shown}: {pays}."
    )


def _best_and_worst(config: ReportConfig, documents: DocumentTable, worth: np.ndarray) -> str:
    order = np.argsort(-worth, kind="stable")
    count = min(config.documents, len(order))
    columns = []
    for chosen in (order[:count], order[::-1][:count]):
        texts = documents.texts(chosen)
        columns.append(
            [
                f"{worth[d]:+.3f} {html.escape(str(documents.origins[d]))}"
                f"<pre>{html.escape(text[: config.characters])}</pre>"
                for d, text in zip(chosen, texts, strict=True)
            ]
        )
    rows = "".join(f"<tr><td>{best}</td><td>{worst}</td></tr>" for best, worst in zip(*columns, strict=True))
    return f"<table class='beside'><thead><tr><th>best</th><th>worst</th></tr></thead><tbody>{rows}</tbody></table>"


def _conditions(solve: Mapping[str, Any]) -> Iterable[str]:
    yield "<h2>Pontryagin's conditions</h2>"
    values = solve["area_under_curve"]
    curve = " → ".join(f"{value:.4f}" for value in values)
    yield (
        f"<p>Area under the desired loss curve of the proxy's run: {curve} ({len(values)} "
        f"sweep{'s' if len(values) > 1 else ''}). {html.escape(solve['health'])}. The weights of the last sweep are "
        f"worth {solve['effective_instances']:.0f} equal ones of {solve['instances']}.</p>"
    )
    first = {check["name"]: check for check in solve["conditions"]["first"]}
    rows = []
    for check in solve["conditions"]["last"]:
        before = f"{first[check['name']]['value']:.3g}" if check["name"] in first else ""
        holds = "holds" if check["holds"] else "does not hold"
        rows.append(
            (check["name"], check["meaning"], before, f"{check['value']:.3g}", f"{check['tolerance']:.0e}", holds)
        )
    yield _table(("condition", "what it is", "uniform weights", "last weights", "tolerance", "at the last"), rows)
    yield (
        "<p>Uniform weights are not optimal, or there would be nothing to select: the scores are one step towards the "
        "optimum. <em>consistency</em> says whether they can be trusted.</p>"
    )


def _quality(solve: Mapping[str, Any], fit: Mapping[str, Any]) -> Iterable[str]:
    yield "<h2>Scores and scorer</h2>"
    batch, time = solve["batch_estimator"], solve["over_time"]
    along = f"{_show(time['spearman'])}, {_show(time['deviation'])} ({time['evaluated']} steps)"
    if time["evaluated"] < 2:
        along = "evaluated at the first step alone"
    runs = "not added: scores are worths along one run"
    if "spearman" in (solve["preview"] or {}):
        runs = f"{_show(solve['preview']['spearman'])}, added for the score"
    yield _table(
        ("what", "value"),
        [
            (
                "scorer: Spearman on held-out documents",
                f"{_show(fit['spearman']['held_out'])} ({fit['rows']['held_out']} rows)",
            ),
            (
                "scorer: Spearman on its training part",
                f"{_show(fit['spearman']['train'])} ({fit['rows']['asked']} of {fit['rows']['train']} rows)",
            ),
            ("scorer: mean squared error at the end of training", _show(fit["final_mse"])),
            (
                "worth against the estimate from an instance's own batches: Spearman, slope, noise by signal",
                ", ".join(_show(batch[name]) for name in ("spearman", "slope", "residual")) + f" ({batch['met']} rows)",
            ),
            ("worth at one step of the sweep against the other steps': Spearman, deviation", along),
            ("worth along text as it comes against that along the selection: Spearman", runs),
        ],
    )


def _costs(metrics: Mapping[str, Any]) -> str:
    flops = metrics["stage_flops"]
    training = flops["pretrain"] / len(metrics["stages"]["pretrain"]["runs"])
    rows = []
    for name, seconds in metrics["stage_seconds"].items():
        spent = flops.get(name, 0.0)
        rows.append(
            (name, f"{seconds:.1f}", f"{spent:.2e}" if spent else "", f"{spent / training:.1%}" if spent else "")
        )
    return _table(("stage", "seconds", "FLOPs", "of one model's pretraining"), rows)


def _image(path: Path, alternative: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"<img alt='{html.escape(alternative)}' src='data:image/png;base64,{content}'>"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _show(value: Any) -> str:
    if value is None:
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
