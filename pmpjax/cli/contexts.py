"""`pmpjax context build|predict|show`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse, show_table


def build(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax context build`."""
    from pmpjax.contexts.structured_prompting.command import BuildConfig
    from pmpjax.contexts.structured_prompting.command import build as run

    describe = "Encodes groups of demonstrations once, for any number of queries."
    config, out, _ = parse(BuildConfig, BuildConfig(), arguments, name, describe, "runs/context")
    announce(out)
    show_table("context", {key: str(value) for key, value in run(config, out).items()})
    return 0


def predict(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax context predict`."""
    from pmpjax.contexts.structured_prompting.command import FILE, PredictConfig
    from pmpjax.contexts.structured_prompting.command import predict as run

    default = PredictConfig(Path("runs/context/context") / FILE)
    describe = "Classifies texts behind a context: those given, or a split of its task."
    config, out, _ = parse(PredictConfig, default, arguments, name, describe, "runs/context-predict")
    announce(out)
    found = run(config, out)
    rows = {key: str(value) for key, value in found.items() if key not in ("confusion", "each group alone")}
    if "accuracy" in found:
        rows["accuracy"] = f"{found['accuracy']:.1%}"
    if alone := found.get("each group alone"):
        each = alone["accuracies"]
        rows["each group alone"] = f"{min(each):.1%} to {max(each):.1%}, on {alone['texts']} texts"
    show_table("predictions", rows)
    return 0


@dataclasses.dataclass(frozen=True)
class ShowConfig:
    """Which context.

    Attributes:
        context: a file that `pmpjax context build` wrote.
    """

    context: Path = Path("runs/context/context/context.safetensors")


def show(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax context show`."""
    import tyro

    from pmpjax.contexts.structured_prompting.command import show as rows

    config = tyro.cli(ShowConfig, prog=name, args=arguments, description="What a context's file holds.")
    show_table(str(config.context), rows(config.context))
    return 0


COMMANDS = {
    ("context", "build"): Command("encode groups of demonstrations once, for any number of queries", build),
    ("context", "predict"): Command("classify texts behind a context of demonstrations", predict),
    ("context", "show"): Command("what a context's file holds", show),
}
