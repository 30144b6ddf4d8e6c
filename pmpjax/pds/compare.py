"""PDS compared with random data and with baselines: final losses, and the cost of choosing the data."""

from collections.abc import Mapping
from typing import Any

from pmpjax.baselines.registry import uses_proxy
from pmpjax.evaluation import comparison as methods
from pmpjax.pds.stages.evaluate import BASELINE, RECEDING, title

PDS_STAGES = ("proxy", "solve", "fit", "score")
"""The stages that are there only to choose the data."""

_COLUMNS = {"difference": "PDS minus it", "receding_difference": "PDS, receding, minus it"}


def baseline_facts(stages: Mapping[str, Any]) -> Mapping[str, Any]:
    """{baseline: seconds, FLOPs and warnings} of the stage that scores by them; empty where a run has none."""
    return stages.get("baselines", {"methods": {}})["methods"]


def selection_costs(
    method: str, stages: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """{method: {"seconds", "flops"}} of all that comes before the draw of the documents; random costs nothing.

    PDS: its stages proxy, solve, fit and score; with a receding horizon those again for each selection. A baseline: its
    own, and the proxy's training, which all but DSIR use.
    """
    costs = {
        method: {
            "seconds": float(sum(seconds[name] for name in PDS_STAGES)),
            "flops": float(sum(stages[name]["flops"] for name in PDS_STAGES)),
        },
        BASELINE: {"seconds": 0.0, "flops": 0.0},
    }
    if "receding" in stages:
        again, own = stages["receding"], costs[method]
        costs[RECEDING] = {
            "seconds": own["seconds"] + again["selection_seconds"],
            "flops": own["flops"] + again["selection_flops"],
        }
    for name, own in baseline_facts(stages).items():
        shared = uses_proxy(name)
        costs[name] = {
            "seconds": own["seconds"] + (seconds["proxy"] if shared else 0.0),
            "flops": own["flops"] + (stages["proxy"]["flops"] if shared else 0.0),
        }
    return costs


def comparison(
    method: str, evaluation: Mapping[str, Any], costs: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """`pmpjax.evaluation.comparison.comparison`, with `difference` of `method` minus each, and with a receding horizon
    `receding_difference` of that minus each; `seconds` and `flops` are those of the selection."""
    differences = {"difference": method}
    if RECEDING in evaluation["final_loss"]["test"]:
        differences["receding_difference"] = RECEDING
    return methods.comparison(evaluation, costs, differences)


def comparison_table(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Header and rows, as text; with a receding horizon its differences have a column of their own."""
    columns = {key: header for key, header in _COLUMNS.items() if all(key in facts for facts in found.values())}
    return methods.comparison_table(found, {name: title(name) for name in found}, columns)
