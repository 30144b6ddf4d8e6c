"""What a run found, from what its stages left: metrics.json, compare.json and the page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.data import Prepared
from pmpjax.pds.compare import comparison, selection_costs
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.evaluate import load_evaluation
from pmpjax.pds.report import build_report, origins


def metrics_of(
    config: PDSConfig,
    method: str,
    data: Prepared,
    selections: Mapping[tuple[str, int], np.ndarray],
    folders: Mapping[str, Path],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What metrics.json holds.

    `verdict`, `speedup` and `steps_needed` [per seed, null where never reached], `final_target_loss` {method: [per
    seed]}, `scorer_spearman`, `selected_fraction`, `duplicates_removed`, `leaks_removed`, `rejected_rows`, `seeds`,
    `origins` {name: {source, selection}: shares of the tokens}, `stage_seconds`, `stage_flops`, and under `stages` the
    facts of each. With rivals also `comparison` (`pmpjax.pds.compare.comparison`).
    """
    evaluation, stages = load_evaluation(folders["evaluate"]), {"prepare": data.counts, **stage_facts(folders)}
    metrics: dict[str, Any] = {
        "verdict": evaluation["verdict"],
        "speedup": evaluation["speedup"]["test"],
        "steps_needed": evaluation["steps_needed"]["test"],
        "final_target_loss": evaluation["final_loss"]["test"],
        "scorer_spearman": stages["fit"]["spearman"]["held_out"],
        "selected_fraction": stages["select"]["selected_fraction"],
        "duplicates_removed": data.counts["duplicates_removed"],
        "leaks_removed": data.counts["leaks_removed"],
        "rejected_rows": data.counts["rejected_rows"],
        "stage_flops": {name: facts.get("flops", 0.0) for name, facts in stages.items()},
        "seeds": list(config.every_seed),
        "origins": {
            name: {"source": before, "selection": after}
            for name, before, after in origins(data, selections[method, config.seed])
        },
        "stage_seconds": dict(seconds),
        "stages": stages,
    }
    if config.rivals:
        metrics["comparison"] = comparison(method, evaluation, selection_costs(method, stages, seconds))
    return metrics


def stage_facts(folders: Mapping[str, Path]) -> dict[str, Any]:
    """STAGE.json of each stage that leaves one, by the stage's name."""
    paths = {name: folder / f"{name}.json" for name, folder in folders.items()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def build_page(
    config: PDSConfig,
    method: str,
    data: Prepared,
    selections: Mapping[tuple[str, int], np.ndarray],
    folders: Mapping[str, Path],
    seconds: Mapping[str, float],
    folder: Path,
) -> None:
    """Fills `folder` with report.html (`pmpjax.pds.report.build_report`)."""
    metrics = metrics_of(config, method, data, selections, folders, seconds)
    build_report(
        config.report,
        data,
        folders["score"] / "scores.parquet",
        selections[method, config.seed],
        load_evaluation(folders["evaluate"]),
        folders["evaluate"] / "curves.png",
        _facts(metrics),
        folder,
        metrics.get("comparison"),
    )


def _facts(metrics: dict[str, Any]) -> dict[str, Any]:
    """The report's table of numbers."""
    stages = metrics["stages"]
    names = ("scorer_spearman", "selected_fraction", "duplicates_removed", "leaks_removed", "rejected_rows")
    facts = {name.replace("_", " "): metrics[name] for name in names}
    facts["costate sweep"] = stages["solve"]["health"]
    facts["proxy: loss, first and last steps"] = (
        f"{stages['proxy']['first_loss']:.2f} -> {stages['proxy']['final_loss']:.2f}"
    )
    for name, own in stages.get("rivals", {"methods": {}})["methods"].items():
        if own["warnings"]:
            facts[f"{name}: warning"] = "; ".join(own["warnings"])
    for name, spent in metrics["stage_seconds"].items():
        flops = metrics["stage_flops"].get(name, 0.0)
        facts[f"{name}: seconds, FLOPs"] = f"{spent:.1f} s, {flops:.2e}" if flops else f"{spent:.1f} s"
    return facts
