"""Solvers compared on the same seeds: a table, and acceleration and area against sweeps and against seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.law import figures, optimise
from pmpjax.law.experiment import LawConfig, run
from pmpjax.runs import read_arrays, write_text


def compare(configs: Mapping[str, LawConfig], directory: Path | str, command: str) -> str:
    """Runs each config (with several seeds) in directory/<name>; returns a Markdown table, also in comparison.md.

    `command` is how to make it again, for the heading. Finished runs are read, unfinished ones go on. Draws
    directory/comparison.png and .pdf: means over seeds, and bands between the extremes.
    """
    directory = Path(directory)
    rows, curves = [], {}
    for name, config in configs.items():
        if len(config.seeds) < 2:
            raise ValueError(f"configs[{name!r}].seeds is {config.seeds}, expected several seeds to compare over")
        summary = run(config, directory / name)
        rows += [_row(name, index, summary) for index in range(len(config.seeds))] + [_mean_row(name, summary)]
        curves[name] = [
            dict(read_arrays(directory / name / f"seed-{seed}" / "solve" / optimise.HISTORY)) for seed in config.seeds
        ]
        for history, compiling in zip(curves[name], summary["per_seed"]["compile_seconds"], strict=True):
            history["seconds"] = np.maximum(history["seconds"] - compiling, 0)
    figures.solvers(directory / "comparison", curves)
    text = "\n".join(
        [f"`{command}`", "", _HEADING, "|".join(["", *["---"] * (_HEADING.count("|") - 1), ""]), *rows, ""]
    )
    write_text(directory / "comparison.md", text)
    return text


_HEADING = (
    "| solver | seed | AR | dev AUC, uniform -> optimised | of uniform | test AUC | kkt spread | law spread | sweeps "
    "| seconds | s to AR 5.5 | s to AR 18 |"
)


def _row(name: str, index: int, summary: Mapping[str, Any]) -> str:
    return _line(name, str(summary["seed"][index]), {key: values[index] for key, values in summary["per_seed"].items()})


def _mean_row(name: str, summary: Mapping[str, Any]) -> str:
    means = {
        key: None if any(value is None for value in values) else float(np.mean(values))
        for key, values in summary["per_seed"].items()
    }
    return _line(f"**{name}**", "mean", means)


def _line(name: str, seed: str, values: Mapping[str, float | int | None]) -> str:
    def show(key: str, form: str) -> str:
        value = values[key]
        return "never" if value is None else format(value, form)

    first, last = values["area_under_curve.initial"], values["area_under_curve.final"]
    share = "" if first is None or last is None else f"{last / first:.3f}"
    cells = [
        name,
        seed,
        show("acceleration_ratio", ".1f"),
        f"{show('area_under_curve.initial', '.0f')} -> {show('area_under_curve.final', '.1f')}",
        share,
        f"{show('test_area_under_curve.initial', '.0f')} -> {show('test_area_under_curve.final', '.0f')}",
        show("kkt_spread.final", ".3f"),
        show("law_spread.final", ".3f"),
        show("sweeps", ".0f"),
        show("seconds", ".0f"),
        show("seconds_to.5.5", ".1f"),
        show("seconds_to.18", ".1f"),
    ]
    return f"| {' | '.join(cells)} |"
