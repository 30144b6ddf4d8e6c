"""`pmpjax pds`: the whole run, each stage by itself, and the comparison with other methods."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pmpjax.cli.options import Command, Offer, near, parse, show_table, value_of

STAGES = {
    "prepare": "text to tokens: tokenizer, rows, document index; copies and leaks removed",
    "proxy": "a warm proxy model on random text of the source",
    "solve": "the costate sweep: the score of every proxy instance",
    "fit": "a regressor that predicts the score from the text",
    "score": "the scorer on every document",
    "baselines": "other methods' scores of every document",
    "select": "the documents kept, by each method and seed",
    "pretrain": "the same model on each selection, at equal budgets",
    "receding": "one more model a seed, whose data are selected again every --receding-horizon steps",
    "evaluate": "speed-up and final losses on the target's test split",
    "report": "report.html and metrics.json",
}
"""Here and not imported, so that `--help` answers at once; a test holds them against `pmpjax.pds.pipeline`."""


# What a user of a run needs; --help-all lists the others.
BRIEF = (
    *("preset", "method", "config", "stages-from", "dry-run", "hardware", "source", "target", "seed", "seeds"),
    *("baselines", "receding-horizon", "prepare.vocabulary", "prepare.length", "prepare.near-duplicates"),
    *("model.preset", "select.ratio", "select.largest-share", "select.repeat-by-rank"),
    *("pretrain.steps", "pretrain.batch", "pretrain.optimizer.learning-rate"),
)

# Tried and not kept (experiments/log/pds_compare.md), or what --method sets: Python's `PDSConfig` has them.
WITHHELD = (
    *("solve.inner-optimizer", "solve.trajectory", "solve.first-instances", "solve.first-rate", "solve.add-scores"),
    *("solve.outer-rate", "fit.clip", "score.known-rows", "select.slope"),
)


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """What a command starts from.

    Attributes:
        preset: where the values of options not given come from: tiny, small, colab-tpu, paper-160m, paper-470m,
            paper-1b, paper-1.7b; None is tiny, or those of the run that is continued or that stages are taken from.
        method: how scores are made and used: "default", or "paper" (arXiv 2410.07064: SGD along text as it comes, the
            regressor's prediction for all, each document once per pass); None is that of the preset or the run.
        config: a run's config.json, to begin the same run in another folder; other options change it.
        stages_from: another run's folder, whose stages are taken where their settings and the stages before them are
            the same: for more seeds, another ratio, other methods to compare with.
    """

    preset: str | None = None
    method: Literal["default", "paper"] | None = None
    config: Path | None = None
    stages_from: Path | None = None


@dataclasses.dataclass(frozen=True)
class RunOptions(StartOptions):
    """What a run starts from, and whether it is only to be looked at.

    Attributes:
        dry_run: compiles every stage for simulated devices and says what the run would need; runs nothing.
        hardware: of the dry run, KIND-COUNT: v5e-1, v2-8, v5p-64, a100-8, h100-1; None is the preset's.
        utilisation: share of the peak that the dry run assumes.
        rate: price of an hour of one device; None leaves the cost in device-hours.
    """

    dry_run: bool = False
    hardware: str | None = None
    utilisation: float = 0.4
    rate: float | None = None


def run(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds run`."""
    from pmpjax.pds import pipeline

    given, preset = _given_preset(arguments)
    config, out, options = parse(
        pipeline.PDSConfig,
        _default(arguments, value_of(arguments, "--stages-from", "None")),
        arguments,
        name,
        "From raw text to the part of it that trains the best model for a desired domain.",
        _folder("runs/pds-run", preset),
        RunOptions(given),
        Offer(BRIEF, WITHHELD),
    )
    if options.dry_run:
        return _dry_run(config, preset, options)
    _check_data(preset, config)
    announce(out)
    metrics = pipeline.run(config, out, options.stages_from)
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


def _given_preset(arguments: list[str]) -> tuple[str | None, str]:
    """The preset that is asked for, if one is, and the one that folders and hardware go by."""
    word = value_of(arguments, "--preset", "None")
    given = None if word == "None" else word
    return given, given or "tiny"


def _default(arguments: list[str], *folders: str) -> Any:
    """The values of options not given: of --config or --preset, else of the first run found in the folders, else
    tiny's; with --method's recipe, where one is asked for."""
    from pmpjax.pds import PDSConfig
    from pmpjax.pds.presets import METHODS, with_method
    from pmpjax.runs import read_config, stored_config

    given, _ = _given_preset(arguments)
    file, method = value_of(arguments, "--config", "None"), value_of(arguments, "--method", "None")
    if file != "None" and given is not None:
        raise ValueError(f"both --config {file} and --preset {given} are given: each has a value for every option")
    if file != "None":
        config = read_config(file, PDSConfig)
    else:
        stored = (stored_config(folder, PDSConfig) for folder in folders if given is None)
        config = next((one for one in stored if one is not None), None) or _preset(given or "tiny")
    return _own_models(with_method(config, method) if method in METHODS else config, arguments)


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


def _dry_run(config: Any, preset: str, options: RunOptions) -> int:
    from rich.console import Console
    from rich.table import Table

    from pmpjax.costs.dry_run import HEADER, dry_run_notes, dry_run_rows, simulate_devices
    from pmpjax.costs.hardware import hardware
    from pmpjax.pds.dry_run import dry_run
    from pmpjax.pds.presets import PLACEMENTS

    placement = dataclasses.replace(PLACEMENTS[preset], utilisation=options.utilisation, rate=options.rate)
    if options.hardware is not None:
        placement = dataclasses.replace(placement, hardware=options.hardware)
    simulate_devices(hardware(placement.hardware).devices)
    console = Console()
    with console.status("") as status:
        report = dry_run(config, placement, progress=lambda stage: status.update(f"compiling {stage}"))
    # Stages side by side and what they say to each other below: one row a stage is too wide for a terminal.
    lines = list(zip(HEADER, *dry_run_rows(report), strict=True))
    spoken = next(line for line in lines if line[0] == "collectives of a call")
    table = Table(*lines[0], title=f"dry run, {preset}, {placement.hardware}", title_justify="left")
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
    from pmpjax.baselines.registry import BASELINES
    from pmpjax.pds import pipeline
    from pmpjax.pds.compare import comparison_table

    given, preset = _given_preset(arguments)
    begun = _default(arguments, value_of(arguments, "--stages-from", "None"))
    default = dataclasses.replace(begun, baselines=BASELINES, seeds=5)
    config, out, options = parse(
        pipeline.PDSConfig,
        default,
        arguments,
        name,
        "PDS, random and other methods of selection at equal budgets, over seeds.",
        _folder("runs/pds-compare", preset),
        StartOptions(given),
        Offer(BRIEF, WITHHELD),
    )
    _check_data(preset, config)
    if not config.baselines:
        raise ValueError("baselines is empty, expected one at least to compare with; `pmpjax pds run` takes none")
    announce(out)
    metrics = pipeline.run(config, out, options.stages_from)
    from rich.console import Console
    from rich.table import Table

    header, *rows = comparison_table(metrics["comparison"])
    table = Table(*header, title=f"PDS compared, {config.seeds} seeds", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for own in metrics["stages"]["baselines"]["methods"].values():
        for text in own["warnings"]:
            console.print(f"warning: {text}", markup=False)
    console.print(metrics["verdict"], markup=False)
    console.print(f"report: {out / 'report' / 'report.html'}, table: {out / 'compare.json'}", markup=False)
    return 0


def _offer(stage: str) -> Offer:
    """A stage's own options; those of the data for `prepare`, of the methods for what compares them."""
    own = {"prepare": ("source", "target", "seed"), "baselines": ("baselines",), "receding": ("receding-horizon",)}
    return Offer(("preset", "method", "config", "stages-from", f"{stage}.", *own.get(stage, ())), WITHHELD)


def one_stage(stage: str, arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds STAGE`: what is not given is as the run in the folder was begun."""
    from pmpjax.pds import PDSConfig, run_stage

    given, preset = _given_preset(arguments)
    folder = _folder("runs/pds-run", preset)
    begun = _default(arguments, value_of(arguments, "--out", folder), value_of(arguments, "--stages-from", "None"))
    describe = (
        f"One stage of `pmpjax pds run`: {STAGES[stage]}. Options not given are those that the run was begun with, or "
        "the preset's where one is given."
    )
    config, out, options = parse(
        PDSConfig, begun, arguments, name, describe, folder, StartOptions(given), _offer(stage)
    )
    _check_data(preset, config)
    announce(out)
    print(run_stage(config, out, stage, options.stages_from))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("pds", "run"): Command("select the pre-training data that a desired domain needs, and measure it", run),
    ("pds", "compare"): Command("PDS and the baselines at equal budgets, over seeds", compare),
    **{("pds", stage): Command(help, functools.partial(one_stage, stage)) for stage, help in STAGES.items()},
}
