"""Time, memory and work of one costate sweep against `jax.grad` through the whole run.

    python experiments/benchmarks/costate.py grid      # adjoints x optimizers x horizons, a small decoder
    python experiments/benchmarks/costate.py decoder   # the cost targets: 4 layers, d 128, T = 64, SGD
    python experiments/benchmarks/costate.py law       # the Learning Law's perceptron at paper scale

All methods of a comparison run in turn, round after round, on the same data; times are medians over the rounds and
ratios are medians of the rounds' ratios, so that a busy machine disturbs all alike. Memory is what the compiler
reserves for temporary values. A gradient-equivalent is the time of one gradient of the training loss, taken from the
bare SGD run in the same rounds; work is counted in the products of the compiled module.
"""

import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import optax
import tyro
from jaxtyping import PyTree
from plants import DecoderShape, decoder_losses, decoder_tokens, init_decoder
from rich.progress import track

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.control.binomial import schedule
from pmpjax.costs.compiled import matrix_product_flops
from pmpjax.law.problems import PerceptronProblem, control_problem, draw
from pmpjax.runs.files import write_json, write_text
from pmpjax.runs.plots import figure

SLOTS = 12
ADJOINTS: dict[str, pmp.AbstractAdjoint] = {
    "StoreAll": pmp.StoreAll(),
    "Linearized": pmp.Linearized(),
    "Checkpointed": pmp.Checkpointed(),
    f"Binomial({SLOTS})": pmp.Binomial(SLOTS),
}
OPTIMIZERS = {"SGD": lambda: optax.sgd(0.01), "AdamW": lambda: optax.adamw(1e-4, eps_root=1e-8)}
PEERS = ("jax.grad", "jax.grad, checkpoint")
GRADIENTS = "gradient loop"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    what: tyro.conf.Positional[Literal["grid", "decoder", "law"]] = "grid"
    horizons: tuple[int, ...] = (16, 64, 256, 1024)
    rounds: int = 5
    memory_limit: float = 8e9  # bytes of temporary memory above which a method is compiled but not run
    out: pathlib.Path = pathlib.Path(__file__).parent


@dataclasses.dataclass
class Method:
    """One way to a control gradient, compiled, with what was measured of it."""

    name: str
    compiled: Callable[..., Any]
    arguments: tuple[Any, ...]
    compile_seconds: float
    temporary_bytes: int
    flops: float | None
    seconds: list[float] = dataclasses.field(default_factory=list)


def compile_method(name: str, function: Callable[..., Any], *arguments: Any) -> Method:
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    try:
        flops: float | None = matrix_product_flops(compiled.as_text())
    except ValueError:  # loops whose length is data: the schedule of Binomial
        flops = None
    return Method(name, compiled, arguments, seconds, compiled.memory_analysis().temp_size_in_bytes, flops)


def methods_for(
    problem: pmp.Problem, x0: PyTree, controls: PyTree, inputs: PyTree, adjoints: dict[str, pmp.AbstractAdjoint]
) -> list[Method]:
    step = problem.dynamics.step
    checkpointed = problem._replace(dynamics=problem.dynamics._replace(step=jax.checkpoint(step)))
    methods = [
        compile_method(name, jax.value_and_grad(lambda u, p=p: pmp.objective(p, x0, u, inputs)), controls)
        for name, p in zip(PEERS, (problem, checkpointed), strict=True)
    ]
    for name, adjoint in adjoints.items():
        methods.append(
            compile_method(
                name,
                lambda u, a=adjoint: pmp.costate(problem, x0, u, inputs, adjoint=a, observe=obs.control_gradient),
                controls,
            )
        )
    return methods


def interleave(methods: list[Method], rounds: int, limit: float, label: str) -> None:
    """Run every method that fits once per round, after one warm-up round."""
    fitting = [m for m in methods if m.temporary_bytes <= limit]
    for number in track(range(rounds + 1), label, transient=True):
        for method in fitting:
            start = time.perf_counter()
            jax.block_until_ready(method.compiled(*method.arguments))
            if number:
                method.seconds.append(time.perf_counter() - start)


def ratio(method: Method, base: Method) -> float | None:
    if not (method.seconds and base.seconds):
        return None
    return statistics.median(a / b for a, b in zip(method.seconds, base.seconds, strict=True))


def gradient_loop(problem: pmp.Problem, x0: PyTree, controls: PyTree, inputs: PyTree) -> Method:
    """The training run alone: T gradients and updates, the unit in which sweeps are counted."""
    sgd = problem._replace(cost=pmp.Cost())
    return compile_method(GRADIENTS, lambda u: pmp.rollout(sgd, x0, u, inputs).final, controls)


def rows_of(methods: list[Method], steps: int, optimizer: str) -> list[dict[str, Any]]:
    by_name = {m.name: m for m in methods}
    gradient = by_name[GRADIENTS]
    work = (gradient.flops or 0.0) / steps
    rows = []
    for method in methods:
        if method is gradient:
            continue
        equivalents = ratio(method, gradient)
        repeated = None
        if method.name.startswith("Binomial"):
            repeated = schedule(steps, SLOTS).advances / steps
        rows.append(
            {
                "T": steps,
                "optimizer": optimizer,
                "method": method.name,
                "work": method.flops / work / steps if method.flops else None,
                "forward_steps": repeated,
                "gradients": equivalents,
                "against_jax_grad": ratio(method, by_name[PEERS[0]]),
                "against_checkpoint": ratio(method, by_name[PEERS[1]]),
                "temporary_bytes": method.temporary_bytes,
                "memory_against_jax_grad": method.temporary_bytes / by_name[PEERS[0]].temporary_bytes,
                "compile_seconds": method.compile_seconds,
                "rounds": len(method.seconds),
            }
        )
    return rows


def decoder_rows(
    shape: DecoderShape, steps: int, optimizer: str, adjoints: dict[str, pmp.AbstractAdjoint], options: Options
) -> list[dict[str, Any]]:
    keys = jax.random.split(jax.random.key(0), 3)
    params, tokens = init_decoder(shape, keys[0]), decoder_tokens(shape, steps, keys[1])
    desired = decoder_tokens(shape, 1, keys[2])[0]
    losses = functools.partial(decoder_losses, shape)
    controls = pmp.uniform(steps, shape.batch)

    def problem_of(rule: str) -> tuple[pmp.Problem, pmp.TrainState]:
        dynamics = pmp.training_dynamics(losses, OPTIMIZERS[rule]())
        desired_loss = pmp.area_under(lambda p: losses(p, desired).mean())
        return pmp.Problem(dynamics, desired_loss, prox=pmp.prox.simplex), dynamics.init(params)

    methods = [gradient_loop(*problem_of("SGD"), controls, tokens)]
    methods += methods_for(*problem_of(optimizer), controls, tokens, adjoints)
    interleave(methods, options.rounds, options.memory_limit, f"T = {steps}, {optimizer}")
    return rows_of(methods, steps, optimizer)


def law_rows(options: Options) -> list[dict[str, Any]]:
    config = PerceptronProblem()
    drawn = draw(config, seed=0)
    problem = control_problem(config, drawn)
    x0 = problem.dynamics.init(drawn.params)
    controls = pmp.uniform(config.steps, config.train)
    methods = [gradient_loop(problem, x0, controls, drawn.train)]
    methods += methods_for(problem, x0, controls, drawn.train, ADJOINTS)
    interleave(methods, options.rounds, options.memory_limit, f"perceptron, T = {config.steps:,}")
    return rows_of(methods, config.steps, "SGD")


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| T | optimizer | method | gradients per step (time) | (work) | forward steps a step | time / jax.grad "
        "| time / jax.grad, checkpoint | temporary MB | memory / jax.grad | compile s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = (
            f"{r['T']:,}",
            r["optimizer"],
            r["method"],
            number(r["gradients"]),
            number(r["work"]),
            number(r["forward_steps"]),
            number(r["against_jax_grad"]),
            number(r["against_checkpoint"]),
            f"{r['temporary_bytes'] / 1e6:,.1f}",
            number(r["memory_against_jax_grad"], 3),
            number(r["compile_seconds"], 1),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Gradients a step and temporary memory against T, a panel each; SGD solid, AdamW dashed."""
    panels_of = (("gradients", "gradient-equivalents a step"), ("temporary_bytes", "temporary bytes"))
    with figure(path, 1, 2, width=3.6, height=3.0) as (_, panels):
        for panel, (key, label) in zip(panels.flat, panels_of, strict=True):
            for colour, method in enumerate([*ADJOINTS, *PEERS]):
                for optimizer, style in zip(OPTIMIZERS, ("-o", "--s"), strict=True):
                    found = [r for r in rows if (r["method"], r["optimizer"]) == (method, optimizer) and r[key]]
                    shown = method if optimizer == "SGD" else None
                    x, y = [r["T"] for r in found], [r[key] for r in found]
                    panel.plot(x, y, style, color=f"C{colour}", label=shown, markersize=3)
            panel.set_xscale("log", base=2)
            panel.set_xlabel("steps T")
            panel.set_ylabel(label)
        panels.flat[0].set_ylim(bottom=0)
        panels.flat[0].set_title("SGD solid, AdamW dashed")
        panels.flat[1].set_yscale("log")
        panels.flat[1].legend(loc="upper left", fontsize=6)


def save(rows: list[dict[str, Any]], options: Options) -> str:
    """Write table, numbers and (for the grid) the plot; returns the table."""
    device = jax.devices()[0]
    text = f"`python experiments/benchmarks/costate.py {options.what}`, jax {jax.__version__}, {device.platform}, "
    text += f"medians of {options.rounds} interleaved rounds.\n\n{table(rows)}"
    write_text(options.out / f"costate_{options.what}.md", text)
    write_json(options.out / f"costate_{options.what}.json", rows)
    if options.what == "grid":
        plot(rows, options.out / "costate_grid.png")
    return text


def main(options: Options) -> None:
    if options.what == "law":
        rows = law_rows(options)
    elif options.what == "decoder":
        targets = {name: ADJOINTS[name] for name in ("StoreAll", "Linearized", "Checkpointed")}
        rows = decoder_rows(DecoderShape(), 64, "SGD", targets, options)
    else:
        shape = DecoderShape(layers=2, width=32, vocabulary=256, batch=8, length=16)
        rows = []
        for steps in options.horizons:
            for optimizer in OPTIMIZERS:
                rows += decoder_rows(shape, steps, optimizer, ADJOINTS, options)
            save(rows, options)  # what is measured so far is kept when a long run is cut off
    print(save(rows, options))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
