"""Methods of selection compared: loss curves at equal budgets, paired over seeds, as numbers and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pmpjax.statistics import Speedup, estimate, paired_difference, smooth, speedup
from pmpjax.train.branch import DECAYED

Curves = Mapping[tuple[str, int], Mapping[str, Any]]
"""(method, seed) -> steps [M], and the loss at those steps on `test` and `dev`; with a decay branch also the two losses
at its end, under `DECAYED` and the split's name."""


def compare_curves(curves: Curves, method: str, baseline: str, smoothing: int = 3) -> dict[str, Any]:
    """T / min {t : loss_m(t) <= loss_b(T)} of each method m and seed, b the baseline, and paired final losses.

    Returns:
        seeds. `speedup` {test, dev}: of `method`, per seed, null where never reached; `steps_needed` likewise.
        `final_loss` {test, dev} {method: per seed}: at the end of the decay branch, without one the curve's last;
        `constant_rate_loss`, the curve's last, which the speed-up is about; `verdict`, a sentence about the test split.
        Where `curves` has other methods than these two, also `arms` {method: speedup and steps_needed, as above} and
        `difference` {test, dev} {other: `paired_difference` of the final losses, `method` minus the other}.
    """
    seeds = sorted({seed for _, seed in curves})
    others = [name for name in dict.fromkeys(name for name, _ in curves) if name not in (method, baseline)]
    methods = [method, baseline, *others]
    arms: dict[str, Any] = {name: {"speedup": {}, "steps_needed": {}} for name in methods}
    constant: dict[str, Any] = {}
    final: dict[str, Any] = {}
    found: list[Speedup] = []
    for split in ("test", "dev"):
        for name in methods:
            each = [
                speedup(
                    curves[name, seed]["steps"], curves[name, seed][split], curves[baseline, seed][split], smoothing
                )
                for seed in seeds
            ]
            arms[name]["speedup"][split] = [one.ratio for one in each]
            arms[name]["steps_needed"][split] = [one.steps for one in each]
            found = each if (split, name) == ("test", method) else found
        constant[split] = {
            name: [float(smooth(curves[name, seed][split], smoothing)[-1]) for seed in seeds] for name in methods
        }
        final[split] = {
            name: [float(curves[name, seed].get(DECAYED + split, last)) for seed, last in zip(seeds, ends, strict=True)]
            for name, ends in constant[split].items()
        }
    result = {"seeds": seeds, **arms[method], "final_loss": final, "constant_rate_loss": constant}
    result["verdict"] = verdict(found)
    if others:
        result["arms"] = arms
        result["difference"] = {
            split: {name: paired_difference(losses[method], losses[name]) for name in methods if name != method}
            for split, losses in final.items()
        }
    return result


def verdict(found: Sequence[Speedup]) -> str:
    """One sentence on the speed-ups of all seeds, whatever they are.

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


def comparison(
    evaluation: Mapping[str, Any], costs: Mapping[str, Mapping[str, float]], differences: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """{method: facts} on the test split, lowest mean loss first.

    Args:
        evaluation: `compare_curves` of more than two methods.
        costs: {method: facts of its own}, such as seconds and FLOPs; added as they are.
        differences: {key: method that is compared with all}.

    Facts: `final_target_loss` [per seed], `mean`, `half_width` of its 95% interval (null below two seeds),
    `steps_needed` and `speedup` [per seed, null where the baseline's final loss is never reached], and under each key
    of `differences` that method minus this one (`paired_difference`; null for the method itself).
    """
    final = evaluation["final_loss"]["test"]
    found: dict[str, dict[str, Any]] = {}
    for name, losses in final.items():
        value, arm = estimate(losses), evaluation["arms"][name]
        found[name] = {
            "final_target_loss": losses,
            "mean": value.mean,
            "half_width": value.half_width,
            "steps_needed": arm["steps_needed"]["test"],
            "speedup": arm["speedup"]["test"],
            **{
                key: None if name == method else paired_difference(final[method], losses)
                for key, method in differences.items()
            },
            **costs[name],
        }
    return dict(sorted(found.items(), key=lambda item: item[1]["mean"]))


def comparison_table(
    found: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], columns: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """Header and rows, as text, of what `comparison` returned with `seconds` and `flops` as costs.

    Args:
        titles: of the methods. columns: {key of a difference: its column's header}.

    >>> loss = {"mean": 4.5, "half_width": None, "steps_needed": [310.0, None], "minus": None}
    >>> facts = {"pds": loss | {"seconds": 2.0, "flops": 0.0}}
    >>> comparison_table(facts, {"pds": "PDS"}, {"minus": "PDS minus it"})[1]
    ('PDS', '4.5000', '310 (1 of 2 seeds)', '', '2', '0')
    """
    header = ("method", "final test loss", "steps to random's end", *columns.values(), "seconds", "FLOPs")
    rows = [
        (
            titles[name],
            f"{facts['mean']:.4f}" + ("" if facts["half_width"] is None else f" ± {facts['half_width']:.4f}"),
            _steps(facts["steps_needed"]),
            *(_difference(facts[key]) for key in columns),
            f"{facts['seconds']:.0f}",
            f"{facts['flops']:.2e}" if facts["flops"] else "0",
        )
        for name, facts in found.items()
    ]
    return [header, *rows]


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


def at_equal_cost(curves: Curves, one: str, other: str, extra_steps: float, smoothing: int = 3) -> dict[str, Any]:
    """Does a dearer method pay? The test loss of `one` so many steps before the end, minus that of `other` at the end.

    Args:
        extra_steps: training steps that the FLOPs which `one` needs more would buy.

    Returns:
        extra_steps; steps: those left of the budget, None where there are none. receding: [per seed] the loss of `one`
        there, interpolated. ordinary: [per seed] that of `other` at the end. difference: `paired_difference` of the
        two, None where no steps are left.
    """
    seeds = sorted({seed for _, seed in curves})
    left = float(curves[one, seeds[0]]["steps"][-1]) - extra_steps
    ordinary = [float(smooth(curves[other, seed]["test"], smoothing)[-1]) for seed in seeds]
    result: dict[str, Any] = {"extra_steps": extra_steps, "steps": None, "ordinary": ordinary, "difference": None}
    if left > 0:
        found = [curves[one, seed] for seed in seeds]
        losses = [float(np.interp(left, each["steps"], smooth(each["test"], smoothing))) for each in found]
        result |= {"steps": left, "receding": losses, "difference": paired_difference(losses, ordinary)}
    return result
