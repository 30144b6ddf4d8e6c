"""`pmpjax icl`."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse


def compare(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax icl compare`."""
    from rich.console import Console
    from rich.table import Table

    from pmpjax.contexts.meta_optimization import report
    from pmpjax.contexts.meta_optimization.experiment import IclConfig, run

    config, out, _ = parse(
        IclConfig,
        IclConfig(),
        arguments,
        name,
        "Compares what demonstrations do to a language model in its context with fine-tuning on the same ones.",
        "runs/icl-compare",
    )
    announce(out)
    metrics = run(config, out)
    console = Console()
    for title, found in report.tables(metrics).items():
        table = Table(*found.header, title=title, title_justify="left")
        for row in found.rows:
            table.add_row(*map(str, row))
        console.print(table)
    for warning in metrics["warnings"]:
        console.print(f"note: {warning}", markup=False)
    console.print(f"page: {out / 'report.html'}", markup=False)
    return 0


COMMANDS = {
    ("icl", "compare"): Command("in-context learning compared with fine-tuning on the same demonstrations", compare),
}
