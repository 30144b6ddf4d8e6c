"""`pmpjax pds`: from raw text to the part of it that trains the best model for a desired domain, and a verdict."""

from pathlib import Path
from typing import Any

from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.stages import METHOD, stages_of
from pmpjax.pds.summary import metrics_of
from pmpjax.pds.work import Work
from pmpjax.runs import Run, RunError, open_run, write_json

COMMAND = "pds"


def run(config: PDSConfig, out: Path) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    metrics.json: `pmpjax.pds.summary.metrics_of`. With other methods than random what `comparison` holds is also left
    in compare.json; the rows that all methods of a seed train on are as many as the shortest selection has.

    Raises:
        SourceError, RunError, SweepError, ValueError: something that the caller can mend; the message says how.
    """
    with open_run(out, COMMAND, deciding(config)) as at:
        folders: dict[str, Path] = {}
        for name in stages_of(config):
            folders[name] = _build(at, config, name, folders)
        return _finish(at, config, folders)


def run_stage(config: PDSConfig, out: Path, name: str) -> Path:
    """One stage in the run directory `out`, from the artifacts of those before it; returns its folder.

    A stage that is whole is left as it is. The last one, `report`, also leaves metrics.json, as `run` does.

    Raises:
        RunError: where a stage before it is missing. ValueError: for a stage that this run does not have.
    """
    stages = stages_of(config)
    if name not in stages:
        raise ValueError(
            f"the run has no stage {name!r}, its stages are {', '.join(stages)}; rivals makes a run compare"
        )
    before = list(stages)[: list(stages).index(name)]
    with open_run(out, COMMAND, deciding(config)) as at:
        folders: dict[str, Path] = {}
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
