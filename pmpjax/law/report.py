"""The result of a run and of several seeds: metrics, figures and page, from stored arrays alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmpjax.law import figures
from pmpjax.law.metrics import acceleration_ratio, area_under_curve
from pmpjax.law.scaling import fit_scaling_law
from pmpjax.runs.page import Figure, Section, Table, write_page
from pmpjax.statistics import estimate

Arrays = Mapping[str, np.ndarray]
_MILESTONES = {"2": 2.0, "5.5": 5.5, "18": 18.0}
_SUMMARISED = (
    "acceleration_ratio",
    "area_under_curve.initial",
    "area_under_curve.final",
    "test_area_under_curve.initial",
    "test_area_under_curve.final",
    "kkt_spread.initial",
    "kkt_spread.final",
    "law_spread.initial",
    "law_spread.final",
    "noisy_weight",
    "sweeps",
    "seconds",
    "compile_seconds",
    "seconds_to.5.5",
    "seconds_to.18",
)


def metrics(history: Arrays, curves: Arrays) -> dict[str, Any]:
    """metrics.json of one seed.

    acceleration_ratio: on the desired test set, of training again with the optimised policy (null: never reached).
    area_under_curve: sum of the desired dev loss over theta_0 .. theta_T; test_area_under_curve: the same on the test
    set. kkt_spread, law_spread: see `pmpjax.law.metrics.spread`. noisy_weight: mean weight of a flipped example, over
    that of all examples. seconds: wall time of the optimisation, compilation included; compile_seconds: how much of it
    the first two sweeps took longer than the others. seconds_to: acceleration ratio -> seconds after compilation at
    which it was first reached. scaling_law: the fits J(t) = L0 + (B / t)^beta from 5% of training on.
    history: one number per sweep.
    """
    seconds = history["seconds"]
    compiling = _compile_seconds(seconds)
    ratios = history["acceleration_ratio"]  # not a number where the loss is not reached, hence below every goal
    reached = {
        name: float(seconds[np.argmax(ratios >= goal)] - compiling) if np.any(ratios >= goal) else None
        for name, goal in _MILESTONES.items()
    }
    kept = np.flatnonzero(history["accepted"])
    return {
        "acceleration_ratio": acceleration_ratio(curves["test_optimised"], curves["test_uniform"]),
        "area_under_curve": _areas(curves, "dev"),
        "test_area_under_curve": _areas(curves, "test"),
        "test_loss_at_end": {name: float(curves[f"test_{name}"][-1]) for name in ("uniform", "optimised")},
        "kkt_spread": _ends(history["kkt_spread"][kept]),
        "law_spread": _ends(history["law_spread"][kept]),
        "noisy_weight": float(history["noisy_weight"][-1]),
        "sweeps": len(seconds),
        "seconds": float(seconds[-1]),
        "compile_seconds": compiling,
        "seconds_to": reached,
        "scaling_law": {name: _fit(curve) for name, curve in curves.items()},
        "history": {name: array for name, array in history.items() if array.ndim == 1},
    }


def summary(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """metrics.json of several seeds: means under the same keys, `per_seed`, and their 95% `interval` (Student)."""
    rows = {name: [_at(metrics, name) for metrics in each] for name in _SUMMARISED}
    found: dict[str, Any] = {}
    for name, values in rows.items():
        _put(found, name, _mean(values))
    intervals = {name: _interval(values) for name, values in rows.items()}
    labels = {key: each[0][key] for key in ("solver", "preset")} | {"seed": [metrics["seed"] for metrics in each]}
    return found | labels | {"interval": intervals, "per_seed": rows}


def draw(folder: Path, history: Arrays, curves: Arrays, steps: np.ndarray) -> None:
    """All figures of one seed; `steps` are those at which spreads and weights were recorded."""
    figures.loss_curves(folder / "loss_curves", history, curves)
    figures.convergence(folder / "convergence", history, _compile_seconds(history["seconds"]))
    figures.spreads(folder / "spread_of_contributions", history, steps)
    figures.weights(folder / "weights", history, steps)
    laws = {name: fit_scaling_law(curve, _settled(curve)) for name, curve in curves.items()}
    figures.scaling(folder / "scaling_law", curves, laws, _settled(curves["dev_uniform"]))


def draw_seeds(folder: Path, stored: list[dict[str, np.ndarray]]) -> None:
    """The figure of several seeds."""
    figures.seeds(folder / "seeds", stored)


_SHOWS = {
    "loss_curves": "desired loss against the training step, for some outer iterations",
    "convergence": "area under the curve and acceleration ratio, against sweeps and seconds",
    "spread_of_contributions": "spread of the contributions of the examples in use",
    "weights": "mean weights of noisy, learned and other examples",
    "scaling_law": "fits of J(t) = L0 + (B / t)^beta",
    "seeds": "means over the seeds, and bands from the lowest to the highest",
}


def write(path: Path, metrics: Mapping[str, Any], drawn: Path) -> None:
    """Writes the page of one seed or of several, from metrics.json's content and the folder of the figures."""
    ratio = metrics["acceleration_ratio"]
    reached = "is never reached" if ratio is None else f"is reached {ratio:.1f} times as fast"
    changes = {
        "area under the desired dev loss": metrics["area_under_curve"],
        "area under the desired test loss": metrics["test_area_under_curve"],
        "spread of the contributions along the costate (kkt)": metrics["kkt_spread"],
        "spread along the desired gradient (law)": metrics["law_spread"],
    }
    numbers = {name: metrics[name] for name in ("solver", "preset", "seed", "sweeps", "seconds", "noisy_weight")}
    rows = [(name, *(f"{ends[end]:.3g}" for end in ("initial", "final"))) for name, ends in changes.items()]
    figures = [Figure(drawn / f"{name}.png", shows) for name, shows in _SHOWS.items()]
    sections = [
        Section(None, [Table(("quantity", "uniform policy", "optimised policy"), rows)]),
        Section("Figures", [figure for figure in figures if figure.path.exists()]),
        Section("The run", [Table(("what", "value"), [(name, str(value)) for name, value in numbers.items()])]),
    ]
    verdict = f"the uniform policy's final loss on the desired test set {reached} with the optimised policy"
    write_page(path, "Learning Law: the perceptron", verdict, sections)


def _areas(curves: Arrays, split: str) -> dict[str, float]:
    names = {"initial": "uniform", "final": "optimised"}
    return {key: area_under_curve(curves[f"{split}_{name}"]) for key, name in names.items()}


def _ends(values: np.ndarray) -> dict[str, float]:
    return {"initial": float(values[0]), "final": float(values[-1])}


def _fit(curve: np.ndarray) -> dict[str, float]:
    return fit_scaling_law(curve, _settled(curve))._asdict()


def _settled(curve: np.ndarray) -> int:
    return max(1, (len(curve) - 1) // 20)  # a power law begins after the start's plateau: the first 5% are left out


def _compile_seconds(seconds: np.ndarray) -> float:
    # The first sweep and the first trial are compiled apart; what they took beyond two ordinary sweeps is compilation.
    if len(seconds) < 4:
        return 0.0
    return float(max(0.0, seconds[1] - 2 * np.median(np.diff(seconds[1:]))))


def _at(metrics: Mapping[str, Any], name: str) -> float | int | None:
    value: Any = metrics
    for key in name.split(".", 1):
        value = value[key]
    return value


def _put(target: dict[str, Any], name: str, value: Any) -> None:
    *above, last = name.split(".", 1)
    for key in above:
        target = target.setdefault(key, {})
    target[last] = value


def _mean(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _interval(values: Sequence[float | int | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return estimate(known).interval if values and len(known) == len(values) else None
