"""The stage `report`: one page that a person reads."""

import base64
import dataclasses
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pmpjax.data import Prepared
from pmpjax.pds.compare import HEADER, comparison_rows
from pmpjax.pds.origins import origin_group
from pmpjax.runs import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #0072b2; padding: .4rem .8rem; background: #f2f7fb; }
table { border-collapse: collapse; width: 100%; } tr { border-bottom: 1px solid #e6e6e6; } img { max-width: 100%; }
td, th { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top; font-variant-numeric: tabular-nums; }
td.text { font: 12px/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the page shows.

    Attributes:
        documents: rows of the tables of best and worst documents.
        characters: of each text shown.
    """

    documents: int = 12
    characters: int = 240


def build_report(
    config: ReportConfig,
    prepared: Prepared,
    scores: Path,
    selected: np.ndarray,
    evaluation: Mapping[str, Any],
    figure: Path,
    facts: Mapping[str, Any],
    folder: Path,
    compared: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes report.html: verdict, curves, shares of each origin, best and worst documents, facts of the stages.

    `scores` is the stage score's scores.parquet; `selected` the first seed's document indices; `figure` a PNG, which
    the page holds itself; `compared` adds the table of all methods (`pmpjax.pds.compare.comparison`).
    """
    worth = np.asarray(pq.read_table(scores, columns=["score"])["score"])
    order = np.argsort(-worth, kind="stable")
    final = evaluation["final_loss"]["test"]
    image = base64.b64encode(figure.read_bytes()).decode("ascii")
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>PDS run</title>",
        f"<style>{_STYLE}</style><h1>Data selection by PDS</h1>",
        f"<p class='verdict'>{html.escape(evaluation['verdict'])}</p>",
        f"<img alt='test loss against step' src='data:image/png;base64,{image}'>",
        _table(("final test loss", *(f"seed {seed}" for seed in evaluation["seeds"])), _final_rows(final)),
        *(_methods(compared) if compared else ()),
        "<h2>What was chosen</h2>",
        _table(
            ("origin", "share of the source's tokens", "share of the selection's tokens"), origins(prepared, selected)
        ),
        "<h2>Best documents</h2>",
        _documents(config, prepared, worth, order[: config.documents]),
        "<h2>Worst documents</h2>",
        _documents(config, prepared, worth, order[::-1][: config.documents]),
        "<h2>Numbers</h2>",
        _table(("what", "value"), [(name, _show(value)) for name, value in facts.items()]),
        "<p>FLOPs are counted as 2 N D a forward pass and 6 N D a gradient over N parameters in products and D tokens; "
        "the products of attention are left out.</p></html>",
    ]
    write_text(folder / "report.html", "\n".join(parts) + "\n")


def origins(prepared: Prepared, selected: np.ndarray) -> list[tuple[str, str, str]]:
    """Share of the tokens of each group of origins before and after selection, largest first."""
    table = prepared.documents
    groups = np.array([origin_group(origin) for origin in table.origins])
    chosen = np.isin(np.arange(len(groups)), selected)
    total, kept = float(table.n_tokens.sum()), float(table.n_tokens[chosen].sum())
    rows = [
        (name, table.n_tokens[groups == name].sum() / total, table.n_tokens[(groups == name) & chosen].sum() / kept)
        for name in np.unique(groups)
    ]
    return [(name, f"{before:.1%}", f"{after:.1%}") for name, before, after in sorted(rows, key=lambda row: -row[1])]


def _methods(compared: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    return (
        "<h2>Methods at equal budgets</h2>",
        _table(HEADER, comparison_rows(compared)),
        "<p>Means over seeds with 95% intervals; PDS minus the other is paired by seed. Steps are the mean over the "
        "seeds that get there. Seconds and FLOPs are those of choosing the data, and the proxy's training is among "
        "them for each method that needs one.</p>",
    )


def _final_rows(final: Mapping[str, list[float]]) -> list[tuple[str, ...]]:
    return [(name, *(f"{value:.4f}" for value in values)) for name, values in final.items()]


def _documents(config: ReportConfig, prepared: Prepared, worth: np.ndarray, chosen: np.ndarray) -> str:
    texts = prepared.documents.texts(chosen)
    rows = [
        (f"{worth[d]:+.3f}", str(prepared.documents.origins[d]), text[: config.characters])
        for d, text in zip(chosen, texts, strict=True)
    ]
    return _table(("score", "origin", "text"), rows, text_column=2)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], text_column: int | None = None) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=text' if index == text_column else ''}>{html.escape(str(cell))}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _show(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
