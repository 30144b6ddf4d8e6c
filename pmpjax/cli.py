"""The command `pmpjax`: one sub-command a job, its options the fields of the job's frozen dataclass.

Rooms are imported only when their command is run, so that `--help` and `--version` answer at once.
Exit status: 0 done, 1 a bug or a failed check, 2 what the user can mend, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pmpjax.runs import RunError
from pmpjax.runs.interrupt import deferred

Options = TypeVar("Options")


class Command(NamedTuple):
    """help: one line. run: (arguments, name for messages, announce a run directory) -> exit status."""

    help: str
    run: Callable[[list[str], str, Callable[[Path], None]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; never raises for a mistake of the user, nor shows a trace.

    `--debug` anywhere lets exceptions through.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    pmpjax ...
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments[:1] == ["--version"]:
        print(f"pmpjax {metadata.version('pmpjax')}")
        return 0
    words = 0
    while words < len(arguments) and not arguments[words].startswith("-"):
        words += 1
    names = [name for name in COMMANDS if arguments[: len(name)] == list(name)]
    if not names:
        return _overview(arguments, words)
    name = names[0]

    directories: list[Path] = []
    with deferred(lambda: _say("stopping at the next safe moment; again to stop at once")) as signals:
        return _run(name, arguments, directories, signals, debug)


def _run(name: tuple[str, ...], arguments: list[str], directories: list[Path], signals: list[int], debug: bool) -> int:
    try:
        return COMMANDS[name].run(arguments[len(name) :], " ".join(("pmpjax", *name)), directories.append)
    except KeyboardInterrupt:
        if directories:
            _say(f"stopped; the run is in {directories[-1]}, and the same command goes on from there")
        else:
            _say("stopped")
        return 128 + (signals[0] if signals else signal.SIGINT)
    except SystemExit as leaving:  # tyro: after --help, or after it said what is wrong with an option
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if _is_users(error):
            _say(f"error: {text}")
            return 2
        _say(f"unexpected {type(error).__name__}: {text} (run it again with --debug for the trace)")
        return 1


def _is_users(error: Exception) -> bool:
    from pmpjax.data.documents import SourceError

    return isinstance(error, RunError | SourceError | ValueError | OSError)


def _say(text: str) -> None:
    print(f"pmpjax: {text}", file=sys.stderr)


def _overview(arguments: list[str], words: int) -> int:
    given = tuple(arguments[:words])
    below = [name for name in COMMANDS if name[: len(given)] == given]
    asked = not arguments or arguments[words:][:1] in (["--help"], ["-h"])
    if below and (asked or (given and words == len(arguments))):
        print("usage: pmpjax COMMAND [OPTIONS]    (pmpjax COMMAND --help lists its options)\n")
        width = max(len(" ".join(name)) for name in below)
        for name in below:
            print(f"  pmpjax {' '.join(name):<{width}}  {COMMANDS[name].help}")
        if not given:
            print(f"\n  pmpjax {'--version':<{width}}  the version")
            print(f"  {'--debug':<{width + 7}}  with any command: show the trace of an error")
        return 0
    if given and not below:
        known = [" ".join(name) for name in COMMANDS]
        near = difflib.get_close_matches(" ".join(given), known, n=1, cutoff=0.4)
        hint = f"; did you mean `pmpjax {near[0]}`?" if near else ""
        _say(f"error: no command {' '.join(given)!r}{hint} (commands: {', '.join(known)})")
    else:
        _say(f"error: expected a command before {arguments[words]!r}; `pmpjax --help` lists them")
    return 2


def _parse(
    kind: type[Options], default: Options, arguments: list[str], name: str, describe: str, out: str
) -> tuple[Options, Path]:
    """The options of a command, and its run directory; leaves by SystemExit (0 after --help, 2 after a mistake)."""
    import tyro

    def options(
        config: Annotated[kind, tyro.conf.arg(name="")] = default,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:  # no type variable here: tyro would try to resolve it
        return config, out

    options.__doc__ = (
        f"{describe}\n\nArgs:\n    config: -\n    out: The run directory; an unfinished run in it is resumed."
    )
    return tyro.cli(options, prog=name, args=arguments, config=(tyro.conf.FlagConversionOff,))


def _value_of(arguments: list[str], option: str, default: str) -> str:
    """Reads one option before the others, because their defaults depend on it."""
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return default


def _law_perceptron(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    from pmpjax.law import PRESETS, LawConfig, run

    preset = _value_of(arguments, "--preset", "paper")
    default = PRESETS.get(preset, PRESETS["paper"])
    describe = (
        "Optimises a learning policy for the perceptron, trains with it, and draws the figures of the Learning Law."
    )
    config, out = _parse(LawConfig, default, arguments, name, describe, f"runs/law-perceptron-{preset}")
    announce(out)
    metrics = run(config, out)
    ratio, curve = metrics["acceleration_ratio"], metrics["area_under_curve"]
    _table(
        f"Learning Law, perceptron, {config.preset}, {config.solver}, seeds {', '.join(map(str, config.seeds))}",
        {
            "acceleration ratio (desired test set)": "never reached" if ratio is None else f"{ratio:.2f}",
            "area under the desired dev loss": f"{curve['initial']:.1f} -> {curve['final']:.1f}",
            "spread of worth along the costate (kkt)": _change(metrics["kkt_spread"]),
            "spread of worth along the desired gradient (law)": _change(metrics["law_spread"]),
            "costate sweeps": f"{metrics['sweeps']:g}",
            "seconds": f"{metrics['seconds']:.1f}",
            "metrics": str(out / "metrics.json"),
        },
    )
    return 0


def _change(values: dict[str, float]) -> str:
    return f"{values['initial']:.3g} -> {values['final']:.3g}"


def _pds_run(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    from pmpjax.pds.pipeline import PDSConfig, run

    config, out = _parse(
        PDSConfig,
        PDSConfig(),
        arguments,
        name,
        "From raw text to the part of it that trains the best model for a desired domain.",
        "runs/pds-run",
    )
    announce(out)
    metrics = run(config, out)
    rows = {"verdict": metrics["verdict"]}
    rows |= {
        f"final test loss, {method}": ", ".join(f"{loss:.4f}" for loss in losses)
        for method, losses in metrics["final_target_loss"].items()
    }
    rows["minutes"] = f"{sum(metrics['stage_seconds'].values()) / 60:.1f}"
    rows |= {"report": str(out / "report" / "report.html"), "metrics": str(out / "metrics.json")}
    rows["selected documents"] = str(out / "select" / "selected.jsonl")
    _table("PDS", rows)
    return 0


def _pds_compare(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    from pmpjax.pds import pipeline
    from pmpjax.pds.compare import HEADER, comparison_rows
    from pmpjax.pds.rivals import RIVALS

    config, out = _parse(
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


def _train(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    from pmpjax.train.pretraining import TrainConfig, run

    config, out = _parse(
        TrainConfig,
        TrainConfig(),
        arguments,
        name,
        "Trains a decoder on text, and measures it on text held out.",
        "runs/train",
    )
    announce(out)
    metrics = run(config, out)
    epochs = metrics["tokens_seen"] / metrics["corpus"]["train"]["tokens"]
    rows = {
        "held-out loss, nats a token": f"{metrics['heldout_loss']:.4f}",
        "held-out bits a byte": f"{metrics['heldout_bits_per_byte']:.4f}",
        "training loss": f"{metrics['train_loss']:.4f}",
        "parameters": f"{metrics['parameters']:,}",
        "tokens seen": f"{metrics['tokens_seen']:,} ({epochs:.2f} epochs)",
    }
    if metrics["tokens_per_second"] is not None:
        rows["tokens a second"] = (
            f"{metrics['tokens_per_second']:,.0f} (utilisation {metrics['utilisation']:.1%}, "
            f"waiting for data {metrics['host_wait']:.1%})"
        )
    if metrics["damaged_checkpoints"]:
        rows["damaged checkpoints passed over"] = str(metrics["damaged_checkpoints"])
    rows["minutes"] = f"{sum(metrics['stage_seconds'].values()) / 60:.1f}"
    rows |= {"model": str(out / "export"), "curves": str(out / "train" / "metrics")}
    rows["metrics"] = str(out / "metrics.json")
    _table("train", rows)
    if "sample" in metrics:  # not in the table, which would read its brackets as markup
        print(metrics["sample"])
    return 0


def _generate(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    import tyro

    from pmpjax.train.generation import GenerateConfig, run_generate

    config = tyro.cli(
        GenerateConfig, prog=name, args=arguments, description="Writes on from a prompt with a trained model."
    )
    print(run_generate(config))
    return 0


def _table(title: str, rows: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)


def _doctor(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    import tyro

    def options() -> None:
        """Shows devices, versions and memory, and checks one small costate sweep against automatic differentiation."""

    tyro.cli(options, prog=name, args=arguments)
    import jax

    from pmpjax.runs import versions

    rows = {"devices": ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())}
    rows |= {"memory": _memory()} | versions()
    error, tolerance = _sweep_error(), 2e-6
    healthy = error <= tolerance
    rows["costate sweep against autodiff"] = (
        f"{'ok' if healthy else 'FAILED'}: relative error {error:.1e}, tolerance {tolerance:.0e}"
    )
    _table("pmpjax doctor", rows)
    return 0 if healthy else 1


def _memory() -> str:
    import os

    import jax

    names = os.sysconf_names
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        host = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB host"
    else:
        host = "host unknown"
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    return host + (f", {stats['bytes_limit'] / 2**30:.1f} GiB device" if "bytes_limit" in stats else "")


def _sweep_error() -> float:
    """|dJ/du by the costate - by jax.grad| / |dJ/du|, float32, a perceptron of 8 inputs, 16 examples and 12 steps."""
    import jax
    import jax.numpy as jnp

    import pmpjax as pmp
    from pmpjax import observables as obs
    from pmpjax.law import problems

    config = problems.PerceptronProblem(dimension=8, train=16, dev=16, test=1, holdout=1, steps=12)
    drawn = problems.draw(config, seed=0)
    problem = problems.control_problem(config, drawn)
    x0, policy = problem.dynamics.init(drawn.params), pmp.uniform(config.steps, config.train)
    sweep = jax.jit(lambda u: pmp.costate(problem, x0, u, drawn.train, observe=obs.control_gradient))(policy)
    expected = jax.jit(jax.grad(lambda u: pmp.objective(problem, x0, u, drawn.train)))(policy)
    return float(jnp.linalg.norm(sweep.seen - expected) / jnp.linalg.norm(expected))


COMMANDS: dict[tuple[str, ...], Command] = {
    ("pds", "run"): Command("select the pre-training data that a desired domain needs, and measure it", _pds_run),
    ("pds", "compare"): Command(
        "PDS beside DSIR, RHO-Loss, influence and gradient similarity, over seeds", _pds_compare
    ),
    ("train",): Command("train a decoder on text: resumable, on one device or a mesh", _train),
    ("generate",): Command("write on from a prompt with a trained model", _generate),
    ("law", "perceptron"): Command(
        "the Learning Law on the perceptron: policy, acceleration, figures", _law_perceptron
    ),
    ("doctor",): Command("devices, versions, memory, and one sweep checked against autodiff", _doctor),
}
