"""`pmpjax prototypes fit` and `pmpjax prototypes predict`."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, show_table


def fit(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax prototypes fit`."""
    import tyro

    from pmpjax.prototypes.fine_tuning.report import verdict
    from pmpjax.prototypes.fine_tuning.work import FitConfig, run_fit
    from pmpjax.runs.progress import progress

    def options(config: tyro.conf.OmitArgPrefixes[FitConfig], out: Path = Path("runs/prototypes")) -> tuple:
        """Fits prototypes to labelled texts: few examples give few prototypes, many as many as help.

        Args:
            config: -
            out: The run directory; an unfinished run in it is resumed.
        """
        return config, out

    config, out = tyro.cli(options, prog=name, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    announce(out)
    metrics = run_fit(config, out, progress)
    rows = {"held-out texts": f"{metrics['test']:,}", "prototypes": _counts(metrics["prototypes"])}
    if metrics["accuracy"] is not None:
        rows["accuracy"] = f"{metrics['accuracy']:.1%}"
        rows |= {name: f"{value:.1%}" for name, value in metrics["baselines"].items()}
    rows["temperature"] = "not calibrated" if metrics["temperature"] is None else f"{metrics['temperature']:.2f}"
    rows["report"] = str(out / "fit" / "report.html")
    show_table(verdict(metrics), rows)
    return 0


def predict(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax prototypes predict`."""
    import tyro

    from pmpjax.prototypes.fine_tuning.predict import PredictConfig, run_predict
    from pmpjax.runs.progress import progress

    config = tyro.cli(
        PredictConfig,
        prog=name,
        args=arguments,
        description="Predicts the classes of a table's texts; writes them with every field of the table.",
    )
    found = run_predict(config, progress)
    rows = {"texts": f"{found.rows:,}", "predicted": _counts(found.labels), "abstained": f"{found.abstained:,}"}
    if found.rejected:
        rows["bad rows"] = f"{len(found.rejected):,}, listed in {found.path.with_suffix('.rejected.json')}"
    show_table("predictions", rows | {"table": str(found.path)})
    return 0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


COMMANDS = {
    ("prototypes", "fit"): Command("prototypes of labelled texts, as many as the data ask for", fit),
    ("prototypes", "predict"): Command("classes of a table's texts, by a fitted run", predict),
}
