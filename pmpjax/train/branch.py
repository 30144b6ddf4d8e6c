"""A run at a constant rate and the decay branch that leaves it: what a model of equal budget ends with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax

from pmpjax.runs import write_arrays
from pmpjax.runs.pipeline import Context
from pmpjax.runs.progress import Bar
from pmpjax.train import OptimizerConfig, Report, Trained, adamw, decaying_adamw, save_params

DECAYED = "decayed_"
"""Before the name of a split: the loss of the branch's model on more of its rows, among the arrays of a run."""

CONSTANT, _BRANCH = "constant", "branch"

Tell = Callable[[Report], None]

TrainTo = Callable[[int, optax.GradientTransformation, Path, Tell], Trained]
"""Trains to a step from the newest of the checkpoints in a folder, and leaves one there."""

Measure = Callable[[Any], dict[str, Any]]
"""params -> loss on each held-out split, nats per token."""


class DecayBranch(NamedTuple):
    """A run of `steps` steps by `constant`, and its batches from step `begin` on once more by `decay`, whose rate
    decays to zero; None where there is no branch. One object for all runs, which share the compilation."""

    steps: int
    begin: int
    constant: optax.GradientTransformation
    decay: optax.GradientTransformation | None


def decay_branch(config: OptimizerConfig, steps: int, decay_steps: int) -> DecayBranch:
    """The branch of the last `decay_steps`; 0 makes none.

    >>> branch = decay_branch(OptimizerConfig(warmup_steps=2), 20, 8)
    >>> branch.begin, branch.decay is None, decay_branch(OptimizerConfig(), 200, 0).decay is None
    (12, False, True)
    """
    begin = steps - decay_steps
    decay = decaying_adamw(config, begin, steps) if decay_steps else None
    return DecayBranch(steps, begin, adamw(config, steps), decay)


def train_with_branch(
    branch: DecayBranch,
    train_to: TrainTo,
    measure: Measure,
    at: Context[Any],
    name: str,
    report: Tell | None = None,
) -> None:
    """The run `name` and its branch in the folder of `at`.

    `measure`: of the branch's model, once. `report`: moves the bar on, where part of the run was reported already.

    Leaves NAME-params.npz, the final parameters (the branch's where there is one), and, last, NAME.npz: steps, what
    `train_to` measured at them, train (loss of each step), and `DECAYED` losses. Checkpoints lie in NAME-checkpoints
    until then: a killed call goes on from the newest.
    """
    work, report = checkpoints_of(at.folder, name), report or new_steps(at.bar, name)
    keep_state(branch, train_to, work, report)
    trained = train_to(branch.steps, branch.constant, work / CONSTANT, report)
    curves = {"steps": trained.evaluated_at, "train": trained.losses, **trained.evaluated}
    if branch.decay is not None:
        again = new_steps(at.bar, f"{name}, decay", branch.begin)
        trained = train_to(branch.steps, branch.decay, work / _BRANCH, again)
        curves |= {DECAYED + split: loss for split, loss in measure(trained.params).items()}
    save_params(at.folder / f"{name}-params", trained.params)
    write_arrays(at.folder / f"{name}.npz", curves)  # last: its presence means that the run is whole
    shutil.rmtree(work, ignore_errors=True)


def keep_state(branch: DecayBranch, train_to: TrainTo, work: Path, report: Tell) -> None:
    """Trains to the step at which the branch leaves, where there is one, and keeps that state for it; once."""
    kept, partial = work / _BRANCH, work / f"{_BRANCH}.partial"
    if branch.decay is None or kept.exists():
        return
    train_to(branch.begin, branch.constant, work / CONSTANT, report)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(work / CONSTANT, partial)
    partial.rename(kept)


def checkpoints_of(folder: Path, name: str) -> Path:
    """Where the checkpoints of a run lie, those at the constant rate in `CONSTANT`."""
    return folder / f"{name}-checkpoints"


def new_steps(bar: Bar, name: str, reached: int = 0) -> Tell:
    """Moves the bar on by the steps that it was not told of: each call of `train` first reports those it resumes."""

    def report(now: Report) -> None:
        nonlocal reached
        bar.update(max(0, now.step - reached), run=name, loss=now.loss)
        reached = max(reached, now.step)

    return report
