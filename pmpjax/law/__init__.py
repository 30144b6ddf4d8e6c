"""The Learning Law: the policy of example weights that makes a model learn fastest, and what it looks like."""

from pmpjax.law.compare import compare
from pmpjax.law.experiment import PRESETS, LawConfig, run
from pmpjax.law.metrics import acceleration_ratio, area_under_curve, spread
from pmpjax.law.problems import Perceptron, PerceptronProblem, control_problem, draw
from pmpjax.law.scaling import ScalingLaw, fit_scaling_law

__all__ = [
    "PRESETS",
    "LawConfig",
    "Perceptron",
    "PerceptronProblem",
    "ScalingLaw",
    "acceleration_ratio",
    "area_under_curve",
    "compare",
    "control_problem",
    "draw",
    "fit_scaling_law",
    "run",
    "spread",
]
