"""`pmpjax pds`: the whole run, each stage by itself, and the comparison with other methods."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmpjax.cli.options import Command, near, parse, show_table, value_of

STAGES = {
    "prepare": "text to tokens: tokenizer, rows, document index; copies and leaks removed",
    "proxy": "a warm proxy model on random text of the source",
    "solve": "the costate sweep: the worth of every proxy instance",
    "fit": "a scorer that tells the worth from the text",
    "score": "the scorer on every document",
    "rivals": "other methods' scores of every document",
    "select": "the documents kept, by each method and seed",
    "pretrain": "the same model on each selection, at equal budgets",
    "receding": "one more model a seed, whose data are selected anew every --mpc steps",
    "evaluate": "speed-up and final losses on the target's test split",
    "report": "report.html and metrics.json",
}
"""Here and not imported, so that `--help` answers at once; a test holds them against `pmpjax.pds.stages`."""


@dataclasses.dataclass(frozen=True)
class StageOptions:
    """What a stage starts from.

    Attributes:
        preset: where the values of options not given come from: tiny, small, colab-tpu, paper-160m, paper-470m,
            paper-1b, paper-1.7b; None is how the run in the folder was begun, or tiny.
    """

    preset: str | None = None


@dataclasses.dataclass(frozen=True)
class PresetOptions:
    """What a run starts from.

    Attributes:
        preset: where the values of options not given come from: tiny, small, colab-tpu, paper-160m, paper-470m,
            paper-1b, paper-1.7b.
    """

    preset: str = "tiny"


@dataclasses.dataclass(frozen=True)
class RunOptions(PresetOptions):
    """What a run starts from, and whether it is only to be looked at.

    Attributes:
        dry_run: compiles every stage for simulated devices and says what the run would need; runs nothing.
        hardware: of the dry run, KIND-COUNT: v5e-1, v2-8, v5p-64, a100-8, h100-1; None is the preset's.
        utilisation: share of the peak that the dry run assumes.
        rate: price of an hour of one device; None leaves the cost in device-hours.
    """

    preset: str = "tiny"
    dry_run: bool = False
    hardware: str | None = None
    utilisation: float = 0.4
    rate: float | None = None


def run(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds run`."""
    from pmpjax.pds import pipeline

    preset = value_of(arguments, "--preset", "tiny")
    config, out, options = parse(
        pipeline.PDSConfig,
        _own_models(_preset(preset), arguments),
        arguments,
        name,
        "From raw text to the part of it that trains the best model for a desired domain.",
        _folder("runs/pds-run", preset),
        RunOptions(preset),
    )
    if options.dry_run:
        return _dry_run(config, options)
    _check_data(preset, config)
    announce(out)
    metrics = pipeline.run(config, out)
    rows = {"verdict": metrics["verdict"]}
    rows |= {
        f"final test loss, {method}": ", ".join(f"{loss:.4f}" for loss in losses)
        for method, losses in metrics["final_target_loss"].items()
    }
    rows["minutes"] = f"{sum(metrics['stage_seconds'].values()) / 60:.1f}"
    rows |= {"report": str(out / "report" / "report.html"), "metrics": str(out / "metrics.json")}
    rows["selected documents"] = str(out / "select" / "selected.jsonl")
    show_table("PDS", rows)
    return 0


def _preset(name: str) -> Any:
    from pmpjax.pds.presets import PRESETS

    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}{near(name, PRESETS)}")
    return PRESETS[name]


def _folder(base: str, preset: str) -> str:
    return base if preset == "tiny" else f"{base}-{preset}"


def _check_data(preset: str, config: Any) -> None:
    """Refuses a preset of the paper on the data that it has for its shapes alone."""
    given = _preset(preset)
    if preset.startswith("paper") and (config.source, config.target) == (given.source, given.target):
        raise ValueError(
            f"preset {preset} has the paper's settings and none of its data: give --source and --target, or look at it "
            "with `pmpjax pds run --dry-run`"
        )


def _own_models(config: Any, arguments: list[str]) -> Any:
    """`--proxy.model.width 64` gives the stage a model of its own, where the config has none to change."""
    from pmpjax.train.model import ModelConfig

    for stage in ("proxy", "fit"):
        settings = getattr(config, stage)
        if settings.model is None and any(argument.startswith(f"--{stage}.model.") for argument in arguments):
            settings = dataclasses.replace(settings, model=ModelConfig())
            config = dataclasses.replace(config, **{stage: settings})
    return config


def _dry_run(config: Any, options: RunOptions) -> int:
    from rich.console import Console
    from rich.table import Table

    from pmpjax.pds.dry_run import HEADER, dry_run, dry_run_notes, dry_run_rows, simulate_devices
    from pmpjax.pds.presets import PLACEMENTS
    from pmpjax.train.hardware import hardware

    placement = dataclasses.replace(PLACEMENTS[options.preset], utilisation=options.utilisation, rate=options.rate)
    if options.hardware is not None:
        placement = dataclasses.replace(placement, hardware=options.hardware)
    simulate_devices(hardware(placement.hardware).devices)
    console = Console()
    with console.status("") as status:
        report = dry_run(config, placement, progress=lambda stage: status.update(f"compiling {stage}"))
    # Stages side by side and what they say to each other below: one row a stage is too wide for a terminal.
    lines = list(zip(HEADER, *dry_run_rows(report), strict=True))
    spoken = next(line for line in lines if line[0] == "collectives of a call")
    table = Table(*lines[0], title=f"dry run, {options.preset}, {placement.hardware}", title_justify="left")
    for line in lines[1:]:
        if line is not spoken:
            table.add_row(*line)
    console.print(table)
    for stage, collectives in zip(lines[0][1:], spoken[1:], strict=True):
        console.print(f"collectives of a call, {stage}: {collectives}", markup=False, highlight=False)
    for note in dry_run_notes(report):
        console.print(note, markup=False, highlight=False)
    return 0


def compare(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds compare`."""
    from pmpjax.pds import pipeline
    from pmpjax.pds.compare import comparison_table
    from pmpjax.pds.rivals import RIVALS

    preset = value_of(arguments, "--preset", "tiny")
    default = dataclasses.replace(_preset(preset), rivals=RIVALS, seeds=5)
    config, out, _ = parse(
        pipeline.PDSConfig,
        _own_models(default, arguments),
        arguments,
        name,
        "PDS, random and other methods of selection at equal budgets, over seeds.",
        _folder("runs/pds-compare", preset),
        PresetOptions(preset),
    )
    _check_data(preset, config)
    if not config.rivals:
        raise ValueError("rivals is empty, expected one at least to compare with; `pmpjax pds run` takes none")
    announce(out)
    metrics = pipeline.run(config, out)
    from rich.console import Console
    from rich.table import Table

    header, *rows = comparison_table(metrics["comparison"])
    table = Table(*header, title=f"PDS compared, {config.seeds} seeds", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for own in metrics["stages"]["rivals"]["methods"].values():
        for text in own["warnings"]:
            console.print(f"warning: {text}", markup=False)
    console.print(metrics["verdict"], markup=False)
    console.print(f"report: {out / 'report' / 'report.html'}, table: {out / 'compare.json'}", markup=False)
    return 0


def one_stage(stage: str, arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds STAGE`: what is not given is as the run in the folder was begun."""
    from pmpjax.pds import PDSConfig, run_stage
    from pmpjax.runs import stored_config

    word = value_of(arguments, "--preset", "None")
    given = None if word == "None" else word
    preset = given or "tiny"
    folder = _folder("runs/pds-run", preset)
    stored = None if given else stored_config(value_of(arguments, "--out", folder), PDSConfig)
    describe = (
        f"One stage of `pmpjax pds run`: {STAGES[stage]}. Options not given are those that the run was begun with, or "
        "the preset's where one is given."
    )
    default = _own_models(_preset(preset) if stored is None else stored, arguments)
    config, out, _ = parse(PDSConfig, default, arguments, name, describe, folder, StageOptions(given))
    _check_data(preset, config)
    announce(out)
    print(run_stage(config, out, stage))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("pds", "run"): Command("select the pre-training data that a desired domain needs, and measure it", run),
    ("pds", "compare"): Command("PDS beside DSIR, RHO-Loss, influence and gradient similarity, over seeds", compare),
    **{("pds", stage): Command(help, functools.partial(one_stage, stage)) for stage, help in STAGES.items()},
}
