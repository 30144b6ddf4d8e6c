"""`pmpjax train` and `pmpjax generate`."""

from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse, show_table


def train(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax train`."""
    from pmpjax.train.pretraining import TrainConfig, run

    config, out, _ = parse(
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
        "held-out loss, nats per token": f"{metrics['heldout_loss']:.4f}",
        "held-out bits per byte": f"{metrics['heldout_bits_per_byte']:.4f}",
        "training loss": f"{metrics['train_loss']:.4f}",
        "parameters": f"{metrics['parameters']:,}",
        "tokens seen": f"{metrics['tokens_seen']:,} ({epochs:.2f} epochs)",
    }
    if metrics["tokens_per_second"] is not None:
        rows["tokens per second"] = (
            f"{metrics['tokens_per_second']:,.0f} (utilisation {metrics['utilisation']:.1%}, "
            f"waiting for data {metrics['host_wait']:.1%})"
        )
    if metrics["damaged_checkpoints"]:
        rows["damaged checkpoints passed over"] = str(metrics["damaged_checkpoints"])
    rows["minutes"] = f"{sum(metrics['stage_seconds'].values()) / 60:.1f}"
    model = out / ("train" if config.model.momentum else "export")  # no other program's format holds momentum
    rows |= {"model": str(model), "curves": str(out / "train" / "metrics")}
    rows["metrics"] = str(out / "metrics.json")
    show_table("train", rows)
    if "sample" in metrics:  # not in the table, which would read its brackets as markup
        print(metrics["sample"])
    return 0


def generate(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax generate`."""
    import tyro

    from pmpjax.train.generation import GenerateConfig, run_generate

    config = tyro.cli(
        GenerateConfig, prog=name, args=arguments, description="Writes on from a prompt with a trained model."
    )
    print(run_generate(config))
    return 0


COMMANDS = {
    ("train",): Command("train a decoder on text: resumable, on one device or a mesh", train),
    ("generate",): Command("write on from a prompt with a trained model", generate),
}
