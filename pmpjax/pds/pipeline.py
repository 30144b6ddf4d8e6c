"""`pmpjax pds`: from raw text to the part of it that trains the best model for a desired domain, and a verdict."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.stages.evaluate import METHOD
from pmpjax.pds.summary import metrics_of
from pmpjax.pds.table import Stage, stages_of
from pmpjax.pds.work import Work
from pmpjax.runs import Run, RunError, open_run, write_json
from pmpjax.runs.progress import note

COMMAND = "pds"


def run(config: PDSConfig, out: Path, stages_from: Path | None = None) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    A stage that the run in `stages_from` has made from equal settings and from equal earlier stages is taken from there
    when its turn comes: more seeds, another ratio, other methods or a receding horizon need no second sweep.

    metrics.json: `pmpjax.pds.summary.metrics_of`. With other methods than random what `comparison` holds is also left
    in compare.json; the rows that all methods of a seed train on are as many as the shortest selection has.

    Raises:
        SourceError, RunError, SweepError, ValueError: something that the caller can mend; the message says how.
    """
    with _open(config, out, stages_from) as (at, folders):
        for name in stages_of(config):
            # Only now: whether a stage fits is known when all that it reads is made.
            _take(at, config, name, stages_from)
            folders[name] = _build(at, config, name, folders)
        return _finish(at, config, folders)


def run_stage(config: PDSConfig, out: Path, name: str, stages_from: Path | None = None) -> Path:
    """One stage in the run directory `out`, from the artifacts of those before it; returns its folder.

    A stage that is whole is left as it is. `stages_from` is another run to take stages from, as for `run`: this stage,
    those before it, and those after it whose inputs are all here. The last stage, `report`, also leaves metrics.json.

    Raises:
        RunError: a stage that this one goes back to is missing. ValueError: this run does not have such a stage.
    """
    stages = stages_of(config)
    if name not in stages:
        raise ValueError(
            f"the run has no stage {name!r}, its stages are {', '.join(stages)}; --rivals METHOD adds the stage "
            "rivals, --mpc STEPS receding"
        )
    readers = _readers(stages, name)
    with _open(config, out, stages_from) as (at, folders):
        for each in stages:
            _take(at, config, each, stages_from)
        for earlier, reader in readers.items():
            if not (at.directory / earlier).exists():
                raise RunError(
                    f"{reader} reads what {earlier} makes, and {at.directory} has none; run "
                    f"`pmpjax pds {earlier} --out {out}` first"
                )
            folders[earlier] = _build(at, config, earlier, folders)
        folders[name] = _build(at, config, name, folders)
        if name == list(stages)[-1]:
            _finish(at, config, folders)
    return folders[name]


@contextmanager
def _open(config: PDSConfig, out: Path, stages_from: Path | None) -> Iterator[tuple[Run, dict[str, Path]]]:
    """The run directory, and a mapping for the folders of its stages."""
    if stages_from is not None:
        _check_run(stages_from)
    hint = (
        f"give the old values to go on with it, or choose another --out, with --stages-from {out} for the "
        "stages that stay as they are, or delete this one to begin again"
    )
    with open_run(out, COMMAND, deciding(config), hint=hint) as at:
        yield at, {}


def _check_run(stages_from: Path) -> None:
    """Refuses to take stages from anything but a run of this pipeline: another command's may be of other data."""
    path, hint = stages_from / "manifest.json", "name the --out of an earlier `pmpjax pds run` or `compare`"
    if not path.exists():
        raise RunError(f"stages_from is {stages_from}, which is no run directory: it has no manifest.json; {hint}")
    try:
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} names no command ({error!r}), expected {COMMAND!r}; {hint}") from error
    if command != COMMAND:
        raise RunError(f"{path} is of the command {command!r}, expected {COMMAND!r}; {hint}")


def _readers(stages: dict[str, Stage], name: str) -> dict[str, str]:
    """The stages that `name` goes back to, in their order, each with one that reads it: `name`, or one of these."""
    readers: dict[str, str] = {}
    for reader in reversed(stages):
        if reader == name or reader in readers:
            readers = {other: reader for other in stages[reader].inputs if other in stages} | readers
    return {other: readers[other] for other in stages if other in readers}


def _inputs(at: Run, config: PDSConfig, name: str) -> dict[str, Path]:
    """The folders of the stages that a stage of this run reads, whether they are made yet or not."""
    stages = stages_of(config)
    return {other: at.directory / other for other in stages[name].inputs if other in stages}


def _take(at: Run, config: PDSConfig, name: str, stages_from: Path | None) -> None:
    """Takes a stage that is not here yet, where the other run made it from what is here.

    One that reads a stage which is still to be made is left: it must not be taken for one without that input.
    """
    inputs = _inputs(at, config, name)
    if stages_from is None or not all(folder.exists() for folder in inputs.values()):
        return
    if at.take(name, stages_from, config=stages_of(config)[name].decided(config), inputs=inputs):
        note(name, f"taken from {stages_from}")


def _build(at: Run, config: PDSConfig, name: str, folders: dict[str, Path]) -> Path:
    stage = stages_of(config)[name]
    return at.stage(
        name,
        lambda folder: stage.build(Work(config, folder, dict(folders), dict(at.seconds))),
        config=stage.decided(config),
        inputs=_inputs(at, config, name),
    )


def _finish(at: Run, config: PDSConfig, folders: dict[str, Path]) -> dict[str, Any]:
    metrics = metrics_of(Work(config, at.directory, folders, at.seconds), METHOD)
    if "comparison" in metrics:
        write_json(at.directory / "compare.json", metrics["comparison"])
    write_json(at.directory / "metrics.json", metrics)
    return metrics
