"""Methods of selection side by side: what each one's data are worth, and what choosing them cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from pmpjax.pds.stages.evaluate import BASELINE, RECEDING, title
from pmpjax.statistics import estimate, paired_difference

PDS_STAGES = ("proxy", "solve", "fit", "score")
"""The stages that are there only to choose the data."""

_HEADER = ("method", "final test loss", "steps to random's end", "PDS minus it", "seconds", "FLOPs")
_ANEW = "PDS selected anew minus it"


def selection_costs(
    method: str, stages: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """{method: {"seconds", "flops"}} of all that comes before the draw of the documents; random costs nothing.

    PDS: its stages proxy, solve, fit and score; with a receding horizon those again for each selection. A rival: its
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
    for name, own in stages.get("baselines", {"methods": {}})["methods"].items():
        shared = name != "dsir"
        costs[name] = {
            "seconds": own["seconds"] + (seconds["proxy"] if shared else 0.0),
            "flops": own["flops"] + (stages["proxy"]["flops"] if shared else 0.0),
        }
    return costs


def comparison(
    method: str, evaluation: Mapping[str, Any], costs: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """{method: facts} on the test split, lowest mean loss first.

    Facts: `final_target_loss` [per seed], `mean`, `half_width` of its 95% interval (null below two seeds),
    `steps_needed` and `speedup` [per seed, null where random's final loss is never reached], `difference` (of `method`
    minus this one: values, mean, interval; null for `method` itself), with a receding horizon `receding_difference` (of
    that minus this one), `seconds` and `flops` of the selection.
    """
    final = evaluation["final_loss"]["test"]
    found: dict[str, dict[str, Any]] = {}
    for name, losses in final.items():
        value = estimate(losses)
        arm = evaluation["arms"][name]
        found[name] = {
            "final_target_loss": losses,
            "mean": value.mean,
            "half_width": value.half_width,
            "steps_needed": arm["steps_needed"]["test"],
            "speedup": arm["speedup"]["test"],
            "difference": None if name == method else evaluation["difference"]["test"][name],
            **costs[name],
        }
        if RECEDING in final:
            anew = None if name == RECEDING else paired_difference(final[RECEDING], losses)
            found[name]["receding_difference"] = anew
    return dict(sorted(found.items(), key=lambda item: item[1]["mean"]))


def comparison_table(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Header and rows, as text; with a receding horizon its differences have a column of their own.

    >>> loss = {"mean": 4.5, "half_width": None, "steps_needed": [310.0, None], "difference": None}
    >>> comparison_table({"pds": loss | {"seconds": 2.0, "flops": 0.0}})[1]
    ('PDS', '4.5000', '310 (1 of 2 seeds)', '', '2', '0')
    """
    anew = RECEDING in found
    rows: list[tuple[str, ...]] = [(*_HEADER[:4], *((_ANEW,) if anew else ()), *_HEADER[4:])]
    for name, facts in found.items():
        row = (
            title(name),
            f"{facts['mean']:.4f}" + ("" if facts["half_width"] is None else f" ± {facts['half_width']:.4f}"),
            _steps(facts["steps_needed"]),
            _difference(facts["difference"]),
            *((_difference(facts["receding_difference"]),) if anew else ()),
            f"{facts['seconds']:.0f}",
            f"{facts['flops']:.2e}" if facts["flops"] else "0",
        )
        rows.append(row)
    return rows


def _steps(needed: Sequence[float | None]) -> str:
    reached = [steps for steps in needed if steps is not None]
    if not reached:
        return "never"
    text = f"{estimate(reached).mean:.0f}"
    return text if len(reached) == len(needed) else f"{text} ({len(reached)} of {len(needed)} seeds)"


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    text = f"{difference['mean']:+.4f}"
    if difference["interval"] is None:
        return text
    low, high = difference["interval"]
    return f"{text} [{low:+.4f}, {high:+.4f}]"
