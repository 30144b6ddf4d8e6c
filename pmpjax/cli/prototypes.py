"""`pmpjax calibrate`."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, show_table


def calibrate(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax calibrate`."""
    import warnings

    import tyro

    from pmpjax.prototypes.calibration import DoubtfulClassWarning
    from pmpjax.prototypes.comparison import CalibrateConfig, rows_of, run
    from pmpjax.runs.progress import progress

    config = tyro.cli(
        CalibrateConfig,
        prog=name,
        args=arguments,
        description="Corrects a language model's label scores for its bias towards some words, by every method.",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulClassWarning)  # the table has them
        results = run(config, progress)
    for method, result in results.items():
        show_table(method, rows_of(result))
    print(f"predictions and probabilities: {config.out or config.scores.with_suffix('.calibrated.npz')}")
    return 0


COMMANDS = {
    ("calibrate",): Command("correct a language model's label scores for its bias towards some words", calibrate),
}
