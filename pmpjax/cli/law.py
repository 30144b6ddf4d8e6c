"""`pmpjax law`."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse, show_table, value_of


def perceptron(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax law perceptron`."""
    from pmpjax.law import PRESETS, LawConfig, run

    preset = value_of(arguments, "--preset", "paper")
    default = PRESETS.get(preset, PRESETS["paper"])
    describe = (
        "Optimises a learning policy for the perceptron, trains with it, and draws the figures of the Learning Law."
    )
    config, out, _ = parse(LawConfig, default, arguments, name, describe, f"runs/law-perceptron-{preset}")
    announce(out)
    metrics = run(config, out)
    ratio, curve = metrics["acceleration_ratio"], metrics["area_under_curve"]
    show_table(
        f"Learning Law, perceptron, {config.preset}, {config.solver}, seeds {', '.join(map(str, config.seeds))}",
        {
            "acceleration ratio (desired test set)": "never reached" if ratio is None else f"{ratio:.2f}",
            "area under the desired dev loss": f"{curve['initial']:.1f} -> {curve['final']:.1f}",
            "spread of contributions along the costate (kkt)": _change(metrics["kkt_spread"]),
            "spread of contributions along the desired gradient (law)": _change(metrics["law_spread"]),
            "costate sweeps": f"{metrics['sweeps']:g}",
            "seconds": f"{metrics['seconds']:.1f}",
            "metrics": str(out / "metrics.json"),
        },
    )
    return 0


def _change(values: dict[str, float]) -> str:
    return f"{values['initial']:.3g} -> {values['final']:.3g}"


COMMANDS = {
    ("law", "perceptron"): Command("the Learning Law on the perceptron: policy, acceleration, figures", perceptron),
}
