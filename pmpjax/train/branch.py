"""A run at a constant rate and the decay branch that leaves it: what a model of equal budget ends with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax

from pmpjax.runs import write_arrays
from pmpjax.runs.progress import Bar
from pmpjax.train import OptimizerConfig, Report, Trained, adamw, decaying_adamw, save_params

DECAYED = "decayed_"
"""Before the name of a split: the loss of the branch's model on more of its rows, among the arrays of a run."""

CONSTANT, _BRANCH = "constant", "branch"


class Optimizers(NamedTuple):
    """constant: of the run. branch: of the decay branch, None where there is none; for a state of the run."""

    constant: optax.GradientTransformation
    branch: optax.GradientTransformation | None


TrainTo = Callable[[int, optax.GradientTransformation, Path, Callable[[Report], None]], Trained]
"""Trains to a step from the newest of the checkpoints in a folder, and leaves one there."""

Measure = Callable[[Any], dict[str, Any]]
"""params -> loss on each held-out split, nats a token."""


def optimizers_of(config: OptimizerConfig, steps: int, decay_steps: int) -> Optimizers:
    """Both optimizers: one pair for all runs, which share the compilation."""
    branch = decaying_adamw(config, steps - decay_steps, steps) if decay_steps else None
    return Optimizers(adamw(config, steps), branch)


def train_with_branch(
    train_to: TrainTo,
    measure: Measure,
    optimizers: Optimizers,
    steps: int,
    decay_steps: int,
    folder: Path,
    name: str,
    bar: Bar,
    report: Callable[[Report], None] | None = None,
) -> None:
    """The run `name` of `steps` steps, and the same batches' last `decay_steps` once more with a falling rate.

    `measure`: of the branch's model, once. `report`: moves the bar on, where part of the run was reported already.

    Leaves NAME-params.npz and, last, NAME.npz, as `pmpjax.pds.stages.pretrain.build_pretrain` says. Checkpoints lie in
    NAME-checkpoints until then: a killed call goes on from the newest.
    """
    work, begin = checkpoints_of(folder, name), steps - decay_steps
    report = report or new_steps(bar, name)
    if optimizers.branch is not None:
        keep_state(train_to, optimizers, begin, work, report)
    trained = train_to(steps, optimizers.constant, work / CONSTANT, report)
    curves = {"steps": trained.evaluated_at, "train": trained.losses, **trained.evaluated}
    if optimizers.branch is not None:
        trained = train_to(steps, optimizers.branch, work / _BRANCH, new_steps(bar, f"{name}, falling rate", begin))
        curves |= {DECAYED + split: loss for split, loss in measure(trained.params).items()}
    save_params(folder / f"{name}-params", trained.params)
    write_arrays(folder / f"{name}.npz", curves)  # last: its presence means that the run is whole
    shutil.rmtree(work, ignore_errors=True)


def keep_state(
    train_to: TrainTo, optimizers: Optimizers, begin: int, work: Path, report: Callable[[Report], None]
) -> None:
    """Trains to the step at which the branch begins, and keeps that state for it; once."""
    branch, partial = work / _BRANCH, work / f"{_BRANCH}.partial"
    if branch.exists():
        return
    train_to(begin, optimizers.constant, work / CONSTANT, report)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(work / CONSTANT, partial)
    partial.rename(branch)


def checkpoints_of(folder: Path, name: str) -> Path:
    """Where the checkpoints of a run lie, those at the constant rate in `CONSTANT`."""
    return folder / f"{name}-checkpoints"


def new_steps(bar: Bar, name: str, reached: int = 0) -> Callable[[Report], None]:
    """Moves the bar on by the steps that it was not told of: each call of `train` first reports those it resumes."""

    def report(now: Report) -> None:
        nonlocal reached
        bar.update(max(0, now.step - reached), run=name, loss=now.loss)
        reached = max(reached, now.step)

    return report
