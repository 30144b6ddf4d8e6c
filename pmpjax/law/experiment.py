"""The Learning Law's experiment: optimise a policy, train with it, measure, draw; resumable at any moment."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import pmpjax as pmp
from pmpjax.law import optimise, report
from pmpjax.law.policies import Method, SolverName, method
from pmpjax.law.problems import Perceptron, PerceptronProblem, control_problem, draw, mean_loss
from pmpjax.law.watch import watch
from pmpjax.runs import open_run, read_arrays, write_arrays, write_json
from pmpjax.runs.progress import progress

_COMMAND = "law perceptron"
_RECORDED = 100  # training steps at which spreads and weights are recorded


@dataclass(frozen=True)
class LawConfig:
    """Everything that decides the result.

    Attributes:
        preset: which sizes the options below start from.
        problem: the reference problem.
        solver: how the policy is optimised; the paper's method is proximal.
        sweeps: costate sweeps to spend, refused trials included.
        seeds: each gives data, teacher and first parameters; several make a run of their own each, and a summary.
        patience: stop after so many accepted sweeps without a lower loss on a third clean split, and keep the policy
            that was best there; 0 never stops early.
    """

    preset: Literal["paper", "quick"] = "paper"
    problem: PerceptronProblem = field(default_factory=PerceptronProblem)
    solver: SolverName = "mirror"
    sweeps: int = 300
    seeds: tuple[int, ...] = (0,)
    patience: int = 0

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, expected one or more different numbers")
        for name, least in (("sweeps", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")


PRESETS = {
    "paper": LawConfig(),
    "quick": LawConfig(preset="quick", problem=PerceptronProblem(train=1024, steps=800), sweeps=40),
}


class Setting(NamedTuple):
    """One seed's problem, ready to solve. retrain: policy [T, N] -> {"dev": J, "test": J} at theta_0 .. theta_T."""

    drawn: Perceptron
    problem: pmp.Problem
    method: Method
    x0: pmp.TrainState
    uniform: jax.Array
    retrain: Callable[[jax.Array], dict[str, jax.Array]]


def setting(config: LawConfig, seed: int) -> Setting:
    """Draws the problem of a seed and binds it to the solver's geometry."""
    drawn, chosen = draw(config.problem, seed), method(config.solver)
    problem = control_problem(config.problem, drawn, chosen.prox)
    x0 = problem.dynamics.init(drawn.params)

    @jax.jit
    def retrain(policy: jax.Array) -> dict[str, jax.Array]:
        def record(state: pmp.TrainState) -> dict[str, jax.Array]:
            return {"dev": mean_loss(state.params, drawn.dev), "test": mean_loss(state.params, drawn.test)}

        return pmp.rollout(problem, x0, policy, drawn.train, record=record).record

    uniform = pmp.uniform(config.problem.steps, config.problem.train).astype(float)
    return Setting(drawn, problem, chosen, x0, uniform, retrain)


def run(config: LawConfig, directory: Path | str) -> dict[str, Any]:
    """Runs (or goes on with) the experiment in `directory`; returns what metrics.json holds.

    One seed: stages `solve`, `retrain`, `figures` and metrics.json. Several: such a run in seed-K/ for each, and a
    metrics.json with the same keys (means over the seeds), `per_seed` and `interval`. Both leave a report.html.
    Raises `pmpjax.runs.RunError` when the directory holds something else.
    """
    directory = Path(directory)
    if len(config.seeds) == 1:
        return _run_seed(config, config.seeds[0], directory)
    with open_run(directory, _COMMAND, config) as whole:
        folders = [directory / f"seed-{seed}" for seed in config.seeds]
        each = [
            _run_seed(replace(config, seeds=(seed,)), seed, folder)
            for seed, folder in zip(config.seeds, folders, strict=True)
        ]

        def draw_summary(folder: Path) -> None:
            stored = [read_arrays(path / "solve" / optimise.HISTORY) for path in folders]
            report.draw_seeds(folder, stored)

        drawn = whole.stage("figures", draw_summary, inputs={path.name: path / "solve" for path in folders})
        metrics = report.summary(each)
        _finish(directory, metrics, drawn)
    return metrics


def _finish(directory: Path, metrics: dict[str, Any], drawn: Path) -> None:
    write_json(directory / "metrics.json", metrics)
    report.write(directory / "report.html", metrics, drawn)


def _run_seed(config: LawConfig, seed: int, directory: Path) -> dict[str, Any]:
    with open_run(directory, _COMMAND, {**asdict(config), "seed": seed}) as stages:
        stride = max(1, config.problem.steps // _RECORDED)
        made: list[Setting] = []

        def get() -> Setting:  # drawn when a stage has work to do, not when all are complete
            if not made:
                made.append(setting(config, seed))
            return made[0]

        def solve(folder: Path) -> None:
            bench = get()
            with progress(f"solve, seed {seed}", total=config.sweeps) as bar:
                optimise.optimise(
                    bench.problem,
                    bench.x0,
                    bench.uniform,
                    bench.drawn.train,
                    bench.method.solver,
                    watched=watch(bench.drawn, stride, holdout=config.patience > 0),
                    baseline=np.asarray(bench.retrain(bench.uniform)["test"]),
                    sweeps=config.sweeps,
                    patience=config.patience,
                    folder=folder,
                    bar=bar,
                )

        def retrain(folder: Path) -> None:
            bench = get()
            policies = {"uniform": bench.uniform, "optimised": read_arrays(solved / optimise.POLICY)["policy"]}
            curves = {
                f"{split}_{name}": curve
                for name, policy in policies.items()
                for split, curve in bench.retrain(policy).items()
            }
            write_arrays(folder / "curves", curves)

        def figures(folder: Path) -> None:
            steps = np.arange(0, config.problem.steps, stride)
            report.draw(folder, read_arrays(solved / optimise.HISTORY), read_arrays(retrained / "curves"), steps)

        solved = stages.stage("solve", solve)
        retrained = stages.stage("retrain", retrain, inputs={"solve": solved})
        drawn = stages.stage("figures", figures, inputs={"solve": solved, "retrain": retrained})
        metrics = report.metrics(read_arrays(solved / optimise.HISTORY), read_arrays(retrained / "curves"))
        metrics |= {"solver": config.solver, "seed": seed, "preset": config.preset}
        _finish(directory, metrics, drawn)
    return metrics
