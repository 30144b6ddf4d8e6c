"""Does momentum attention train better than plain attention? `python experiments/momentum_attention.py [OUT]`.

The tiny decoder on installed-docs, scipy's reference documentation held out; equal data, steps and first parameters,
three seeds, eta 0 (plain), 0.1, 0.3 and 0.5. The same command goes on where a run was stopped.
"""

import dataclasses
import sys
from pathlib import Path

from pmpjax.runs import write_json, write_text
from pmpjax.statistics import estimate, paired_difference
from pmpjax.train import OptimizerConfig
from pmpjax.train.corpus import CorpusConfig
from pmpjax.train.model import ModelConfig
from pmpjax.train.pretraining import TrainConfig, run

SEEDS, ETAS = (0, 1, 2), (0.0, 0.1, 0.3, 0.5)
CONFIG = TrainConfig(
    corpus=CorpusConfig(source=("installed-docs",), heldout="installed-docs:scipy", seed=0),
    model=ModelConfig("tiny"),
    length=256,
    batch=16,
    steps=1_200,
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, schedule="cosine"),
    evaluate_every=200,
    heldout_rows=0,
)


def losses(eta: float, config: TrainConfig, out: Path) -> list[float]:
    model = dataclasses.replace(config.model, momentum=eta)
    configs = {seed: dataclasses.replace(config, model=model, seed=seed) for seed in SEEDS}
    return [run(one, out / f"eta-{eta:g}-seed-{seed}")["heldout_loss"] for seed, one in configs.items()]


def compare(config: TrainConfig, out: Path) -> str:
    found = {eta: losses(eta, config, out) for eta in ETAS}
    write_json(out / "metrics.json", {"seeds": SEEDS, "heldout_loss": found})
    lines = ["| eta | held-out loss, nats per token | minus plain attention, paired by seed |", "|---|---|---|"]
    for eta, values in found.items():
        mean, other = estimate(values), paired_difference(values, found[0.0])
        low, high = other["interval"]
        change = f"{other['mean']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}" if eta else "-"
        lines.append(f"| {eta:g} | {mean.mean:.4f} +- {mean.half_width:.4f} | {change} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    table = compare(CONFIG, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/momentum-attention"))
    write_text(Path(__file__).with_suffix(".md"), f"`python experiments/momentum_attention.py`\n\n{table}")
    print(table, end="")
