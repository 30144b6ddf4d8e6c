"""`pmpjax pds`: from raw text to the part of it that trains the best model for a desired domain, and a verdict."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.evaluate import METHOD
from pmpjax.pds.stages import stages_of
from pmpjax.pds.summary import metrics_of
from pmpjax.pds.work import Work
from pmpjax.runs import Run, RunError, open_run, write_json
from pmpjax.runs.progress import note

COMMAND = "pds"


def run(config: PDSConfig, out: Path, stages_from: Path | None = None) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    Stages that the run in `stages_from` has made from equal settings and equal stages before them are taken from there:
    more seeds, another ratio or rivals beside it need no second sweep.

    metrics.json: `pmpjax.pds.summary.metrics_of`. With other methods than random what `comparison` holds is also left
    in compare.json; the rows that all methods of a seed train on are as many as the shortest selection has.

    Raises:
        SourceError, RunError, SweepError, ValueError: something that the caller can mend; the message says how.
    """
    with _open(config, out, stages_from) as (at, folders):
        for name in stages_of(config):
            folders[name] = _build(at, config, name, folders)
        return _finish(at, config, folders)


def run_stage(config: PDSConfig, out: Path, name: str, stages_from: Path | None = None) -> Path:
    """One stage in the run directory `out`, from the artifacts of those before it; returns its folder.

    A stage that is whole is left as it is; `stages_from` is another run to take stages from, as for `run`. The last
    stage, `report`, also leaves metrics.json, as `run` does.

    Raises:
        RunError: where a stage before it is missing. ValueError: for a stage that this run does not have.
    """
    stages = stages_of(config)
    if name not in stages:
        raise ValueError(
            f"the run has no stage {name!r}, its stages are {', '.join(stages)}; rivals makes a run compare"
        )
    before = list(stages)[: list(stages).index(name)]
    with _open(config, out, stages_from) as (at, folders):
        for earlier in before:
            if not (at.directory / earlier).exists():
                if earlier not in stages[name].inputs:
                    continue
                raise RunError(
                    f"{name} reads what {earlier} makes, and {at.directory} has none; run `pmpjax pds {earlier}` there "
                    "first, or `pmpjax pds run` for all"
                )
            folders[earlier] = _build(at, config, earlier, folders)
        folders[name] = _build(at, config, name, folders)
        if name == list(stages)[-1]:
            _finish(at, config, folders)
    return folders[name]


@contextmanager
def _open(config: PDSConfig, out: Path, stages_from: Path | None) -> Iterator[tuple[Run, dict[str, Path]]]:
    """The run directory, and a mapping for the folders of its stages."""
    if stages_from is not None and not (stages_from / "manifest.json").exists():
        raise RunError(f"stages_from is {stages_from}, which is no run directory: it has no manifest.json")
    mend = (
        f"give the old values to go on with it, or choose another --out, with --stages-from {out} for the "
        "stages that stay as they are, or delete this one to begin again"
    )
    with open_run(out, COMMAND, deciding(config), mend=mend) as at:
        if stages_from is not None:
            _take(at, config, stages_from)
        yield at, {}


def _take(at: Run, config: PDSConfig, stages_from: Path) -> None:
    for name, stage in stages_of(config).items():
        inputs = {other: at.directory / other for other in stage.inputs if (at.directory / other).exists()}
        if at.take(name, stages_from, config=stage.decided(config), inputs=inputs):
            note(name, f"taken from {stages_from}")


def _build(at: Run, config: PDSConfig, name: str, folders: dict[str, Path]) -> Path:
    stage = stages_of(config)[name]
    return at.stage(
        name,
        lambda folder: stage.build(Work(config, folder, dict(folders), dict(at.seconds))),
        config=stage.decided(config),
        inputs={other: folders[other] for other in stage.inputs if other in folders},
    )


def _finish(at: Run, config: PDSConfig, folders: dict[str, Path]) -> dict[str, Any]:
    metrics = metrics_of(Work(config, at.directory, folders, at.seconds), METHOD)
    if "comparison" in metrics:
        write_json(at.directory / "compare.json", metrics["comparison"])
    write_json(at.directory / "metrics.json", metrics)
    return metrics
