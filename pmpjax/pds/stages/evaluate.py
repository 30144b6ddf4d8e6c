"""The stage `evaluate`: what the selection achieves, on the target's test split."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmpjax.baselines import registry
from pmpjax.evaluation.comparison import Curves, compare_curves
from pmpjax.evaluation.figures import draw_curves
from pmpjax.runs import read_json, write_json

METHOD = "pds"
BASELINE = "random"
RECEDING = "pds-receding"
TITLES = {METHOD: "PDS", RECEDING: "PDS, receding horizon"}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How curves are compared.

    Attributes:
        smoothing: points of the curve averaged before a crossing is looked for, odd.
    """

    smoothing: int = 3


def build_evaluate(config: EvaluateConfig, curves: Curves, method: str, folder: Path) -> None:
    """Compares `method` with the other methods, seed by seed.

    Files:
        evaluation.json: `pmpjax.evaluation.comparison.compare_curves`.
        curves.png, curves.pdf: the test loss of each method.
    """
    result = compare_curves(curves, method, BASELINE, config.smoothing)
    write_json(folder / "evaluation.json", result)
    labels = {name: f"selected by {title(name)}" for name in result["final_loss"]["test"]} | {BASELINE: "random data"}
    draw_curves(curves, labels, folder / "curves", config.smoothing)


def title(method: str) -> str:
    """The method as it is written on a page.

    >>> title("rho-loss"), title("influence")
    ('RHO-Loss', 'influence')
    """
    return TITLES.get(method) or registry.title(method)


def load_evaluation(folder: Path) -> Mapping[str, Any]:
    """evaluation.json of the stage."""
    return read_json(folder / "evaluation.json")
