"""What a comparison found: metrics over seeds, a table by layer, a picture and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.contexts.meta_optimization.metrics import rec2ftp
from pmpjax.runs import plots
from pmpjax.runs.page import Figure, Note, Section, Table, write_page
from pmpjax.statistics import Estimate, estimate

WORLDS = ("trained", "untrained", "shuffled")
"""The model as it is, with weights drawn at random, and with labels permuted among the demonstrations."""

MEASURES = {
    "SimAOU": ("trained", "sim_aou"),
    "SimAOU, untrained": ("untrained", "sim_aou"),
    "SimAOU, shuffled": ("shuffled", "sim_aou"),
    "SimAOU, position-matched": ("trained", "sim_aou_position_matched"),
    "SimAOU, position alone": ("trained", "sim_aou_position"),
    "SimAOU, layer-causal": ("trained", "sim_aou_layer_causal"),
    "SimAOU, random": ("trained", "sim_aou_random"),
    "SimAM": ("trained", "sim_am"),
    "SimAM, zero-shot": ("trained", "sim_am_zero_shot"),
    "SimAM, untrained": ("untrained", "sim_am"),
    "SimAM, layer-causal": ("trained", "sim_am_layer_causal"),
    "SimAM, centred": ("trained", "sim_am_centred"),
    "SimAM, centred, zero-shot": ("trained", "sim_am_zero_shot_centred"),
    "SimAM, softmax": ("trained", "sim_am_softmax"),
    "SimAM, softmax, zero-shot": ("trained", "sim_am_zero_shot_softmax"),
    "attention to demonstrations": ("trained", "attention_to_demonstrations"),
    "Kendall": ("trained", "kendall"),
    "Kendall, untrained": ("untrained", "kendall"),
    "Kendall, shuffled": ("shuffled", "kendall"),
    "Kendall, random": ("trained", "kendall_random"),
    "orders, in-context": ("orders", "order_in_context"),
    "orders, fine-tuned": ("orders", "order_fine_tuned"),
}
"""Title -> (stage, array), for tables; by layer or in the mean over layers."""

_PANELS = {
    "similarity of updates (SimAOU)": tuple(name for name in MEASURES if name.startswith("SimAOU")),
    "similarity of scores (SimAM)": ("SimAM", "SimAM, zero-shot", "SimAM, untrained", "SimAM, layer-causal"),
    "attention, order": (
        "attention to demonstrations",
        "Kendall",
        "Kendall, random",
        "orders, in-context",
        "orders, fine-tuned",
    ),
}


def metrics(seeds: Sequence[int], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metrics.json holds: `by_layer` and `overall` (mean, interval over seeds), `accuracy`, `rec2ftp`, `orders`.

    Intervals are Student's over seeds, None for one; those of Rec2FTP are by resampled items of all seeds. A measure
    that is nowhere defined is NaN, and null in the file; `undefined` counts the items whose measure was left out.
    """
    layers = {
        title: np.stack([_mean(one[at]["arrays"][name], 1) for one in found]) for title, (at, name) in MEASURES.items()
    }
    missing = {
        title: int(sum(np.isnan(one[at]["arrays"][name]).sum() for one in found))
        for title, (at, name) in MEASURES.items()
    }
    return {
        "seeds": list(seeds),
        "by_layer": {title: [_entry(column) for column in values.T] for title, values in layers.items()},
        "overall": {title: _entry(_mean(values, 1)) for title, values in layers.items()},
        "undefined": {title: count for title, count in missing.items() if count},
        "accuracy": {world: _accuracy([one[world]["correct"] for one in found]) for world in WORLDS},
        "rec2ftp": {
            f"{world}, {arm}": _recovered([one[world]["correct"] for one in found], arm)
            for world in WORLDS
            for arm in ("fine_tuned", "layer_causal")
        },
        "orders": {
            arm: {
                "deviation_of_accuracy": _entry(
                    [float(np.std(one["orders"]["accuracy"][arm], ddof=1)) for one in found]
                ),
                "answers_changed": _entry([one["orders"]["changed"][arm] for one in found]),
            }
            for arm in ("in_context", "fine_tuned")
        },
        "choice": [{name: value for name, value in one["choice"].items() if name != "task"} for one in found],
        "untrained_rates": [one["untrained"]["rates"] for one in found],
        "labels_moved": [one["shuffled"]["labels_moved"] for one in found],
        "items": [len(one["trained"]["items"]) for one in found],
        "demonstrations": found[0]["trained"]["demonstrations"],
        "warnings": _warnings(seeds, found),
    }


def tables(metrics: Mapping[str, Any]) -> dict[str, Table]:
    """Accuracy, Rec2FTP, measures in the mean over layers, sensitivity to order, and two tables by layer."""
    recovered = metrics["rec2ftp"].items()
    orders = metrics["orders"].items()
    overall = metrics["overall"].items()
    return {
        "accuracy": Table(
            ("model", *_ARMS.values()),
            [(world, *(shown(metrics["accuracy"][world][arm], 2) for arm in _ARMS)) for world in WORLDS],
        ),
        "Rec2FTP: of what fine-tuning mends, how much the context does": Table(
            ("model, arm", "%", "items"),
            [(name.replace("_", "-"), _percent(one), str(one["items"])) for name, one in recovered],
        ),
        "mean over layers": Table(
            ("measure", "mean and 95% interval"), [(name, shown(one, 3)) for name, one in overall]
        ),
        "sensitivity to the order of demonstrations": Table(
            ("arm", "deviation of accuracy", "share of answers that change"),
            [(_ARMS[arm], *(shown(one, 3) for one in found.values())) for arm, found in orders],
        ),
        **{title: _by_layer(metrics["by_layer"], columns) for title, columns in _BY_LAYER.items()},
    }


_ARMS = {
    "zero_shot": "zero-shot",
    "position_matched": "position-matched",
    "in_context": "in-context",
    "fine_tuned": "fine-tuned",
    "layer_causal": "layer-causal",
}

_BY_LAYER = {
    "by layer: similarity of updates (SimAOU)": {
        "trained": "SimAOU",
        "untrained": "SimAOU, untrained",
        "shuffled": "SimAOU, shuffled",
        "position-matched": "SimAOU, position-matched",
        "layer-causal": "SimAOU, layer-causal",
        "random": "SimAOU, random",
    },
    "by layer: attention": {
        "SimAM": "SimAM",
        "SimAM, zero-shot": "SimAM, zero-shot",
        "SimAM, untrained": "SimAM, untrained",
        "to demonstrations": "attention to demonstrations",
        "Kendall": "Kendall",
        "Kendall, untrained": "Kendall, untrained",
        "Kendall, random": "Kendall, random",
    },
}


def _by_layer(entries: Mapping[str, Any], columns: Mapping[str, str]) -> Table:
    count = len(entries["SimAOU"])
    rows = [
        (str(layer), *(shown(entries[name][layer], 3, interval=False) for name in columns.values()))
        for layer in range(count)
    ]
    return Table(("layer", *columns), rows)


def shown(entry: Mapping[str, Any], digits: int, interval: bool = True) -> str:
    """A mean and its interval as text.

    >>> shown({"mean": 0.25, "interval": [0.125, 0.375]}, 3), shown({"mean": float("nan"), "interval": None}, 3)
    ('0.250 [0.125, 0.375]', 'undefined')
    """
    if entry["mean"] is None or not np.isfinite(entry["mean"]):
        return "undefined"
    text = f"{entry['mean']:.{digits}f}"
    if not interval or entry["interval"] is None:
        return text
    return f"{text} [{', '.join(f'{end:.{digits}f}' for end in entry['interval'])}]"


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence: is the trained model's similarity above that of its controls?"""
    overall = metrics["overall"]
    names = ("SimAOU", "SimAOU, untrained", "SimAOU, shuffled", "SimAOU, position-matched", "SimAOU, random")
    values = [f"{name.removeprefix('SimAOU, ')} {shown(overall[name], 3, interval=False)}" for name in names[1:]]
    return f"SimAOU {shown(overall['SimAOU'], 3)}, its controls: {', '.join(values)}"


def draw_layers(path: Path, metrics: Mapping[str, Any]) -> None:
    """Every measure against the layer; bands are 95% intervals over seeds."""
    with plots.figure(path, columns=len(_PANELS), width=3.8, height=3.0) as (_, (axes,)):
        for axis, (title, names) in zip(axes, _PANELS.items(), strict=True):
            for name in names:
                entries = metrics["by_layer"][name]
                layers = np.arange(len(entries))
                (line,) = axis.plot(layers, [entry["mean"] for entry in entries], label=name)
                ends = [entry["interval"] for entry in entries]
                if all(end is not None for end in ends):
                    axis.fill_between(layers, *np.array(ends).T, color=line.get_color(), alpha=0.15, linewidth=0)
            axis.set(xlabel="layer", title=title)
            axis.legend(fontsize=6)


def write(directory: Path, metrics: Mapping[str, Any]) -> None:
    """Writes by_layer.png and .pdf, and report.html."""
    draw_layers(directory / "by_layer", metrics)
    sections = [
        Section(None, [Note(_METHOD), *(Note(warning, warning=True) for warning in metrics["warnings"])]),
        *(Section(title[0].upper() + title[1:], [table]) for title, table in tables(metrics).items()),
    ]
    sections.insert(1, Section("Layers", [Figure(directory / "by_layer.png", "every measure against the layer")]))
    sections.append(Section("The task", [Table(("what", "value"), [(k, str(v)) for k, v in metrics["task"].items()])]))
    write_page(directory / "report.html", "In-context learning and fine-tuning", verdict(metrics), sections)


_METHOD = (
    "Fine-tuning is one step of SGD on the key and value projections for each demonstration of the context. "
    "Demonstrations and rates are chosen on validation items, none of which is reported. Untrained: random weights of "
    "the same shape. Shuffled: labels permuted among the demonstrations. Position-matched: zero-shot at the positions "
    "of the in-context run. Layer-causal: each layer is trained by a loss at its own output. Intervals are 95%."
)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Over what is a number; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=axis)
    total = np.where(there, values, 0).sum(axis=axis)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _entry(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    known = [float(value) for value in values if np.isfinite(value)]
    found = estimate(known) if known else Estimate(float("nan"), None)
    return {"mean": found.mean, "interval": found.interval, "per_seed": [float(value) for value in values]}


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def _accuracy(correct: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {arm: _entry([float(np.mean(one[arm])) for one in correct]) for arm in correct[0]}


def _recovered(correct: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    whole = [
        np.concatenate([np.asarray(one[name], bool) for one in correct]) for name in ("zero_shot", "in_context", arm)
    ]
    return rec2ftp(*whole)._asdict()


def _percent(share: Mapping[str, Any]) -> str:
    if share["reason"] is not None:
        return f"undefined: {share['reason']}"
    return shown({"mean": share["value"], "interval": share["interval"]}, 1)


def _warnings(seeds: Sequence[int], found: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = []
    for seed, one in zip(seeds, found, strict=True):
        trained, choice = one["trained"], one["choice"]
        if trained["too_long"]:
            texts.append(f"seed {seed}: demonstrations longer than the window, in no arm: {trained['too_long']}")
        if trained["duplicates"]:
            texts.append(f"seed {seed}: {trained['duplicates']} demonstrations begin with a query's own text")
        for at, rates in (("", choice), ("untrained, ", one["untrained"])):
            if rates["rate_at_the_end"]:
                texts.append(
                    f"{at}seed {seed}: the chosen rate is at an end of the list for {rates['rate_at_the_end']}"
                )
            for arm, diverged in rates["diverged"].items():
                if diverged:
                    texts.append(f"{at}seed {seed}: {arm} diverged at the rates {diverged}")
    return texts
