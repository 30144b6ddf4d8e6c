"""`pmpjax pds`: the whole run, each stage by itself, and the comparison with other methods."""

import functools
from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse, show_table, value_of

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


def run(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds run`."""
    from pmpjax.pds import pipeline

    config, out = parse(
        pipeline.PDSConfig,
        pipeline.PDSConfig(),
        arguments,
        name,
        "From raw text to the part of it that trains the best model for a desired domain.",
        "runs/pds-run",
    )
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


def compare(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax pds compare`."""
    from pmpjax.pds import pipeline
    from pmpjax.pds.compare import HEADER, comparison_rows
    from pmpjax.pds.rivals import RIVALS

    config, out = parse(
        pipeline.PDSConfig,
        pipeline.PDSConfig(rivals=RIVALS, seeds=5),
        arguments,
        name,
        "PDS, random and other methods of selection at equal budgets, over seeds.",
        "runs/pds-compare",
    )
    if not config.rivals:
        raise ValueError("rivals is empty, expected one at least to compare with; `pmpjax pds run` takes none")
    announce(out)
    metrics = pipeline.run(config, out)
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER, title=f"PDS compared, {config.seeds} seeds", title_justify="left")
    for row in comparison_rows(metrics["comparison"]):
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

    folder = "runs/pds-run"
    stored = stored_config(value_of(arguments, "--out", folder), PDSConfig)
    default = PDSConfig() if stored is None else stored
    describe = (
        f"One stage of `pmpjax pds run`: {STAGES[stage]}. Options not given are those that the run was begun with."
    )
    config, out = parse(PDSConfig, default, arguments, name, describe, folder)
    announce(out)
    print(run_stage(config, out, stage))
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("pds", "run"): Command("select the pre-training data that a desired domain needs, and measure it", run),
    ("pds", "compare"): Command("PDS beside DSIR, RHO-Loss, influence and gradient similarity, over seeds", compare),
    **{("pds", stage): Command(help, functools.partial(one_stage, stage)) for stage, help in STAGES.items()},
}
