"""`pmpjax kosmos train` and `pmpjax kosmos ground`."""

import sys
from collections.abc import Callable
from pathlib import Path

from pmpjax.cli.options import Command, parse, value_of


def train(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax kosmos train`."""
    from rich.console import Console
    from rich.table import Table

    from pmpjax.multimodal import report
    from pmpjax.multimodal.config import PRESETS, KosmosTrainConfig
    from pmpjax.multimodal.training import run

    preset = value_of(arguments, "--preset", "default")
    config, out, _ = parse(
        KosmosTrainConfig,
        PRESETS.get(preset, PRESETS["default"]),
        arguments,
        name,
        "Trains a small Kosmos-2 on generated scenes: it finds what a phrase names, names what a box shows, and says "
        "what is not there.",
        "runs/kosmos" if preset == "default" else f"runs/kosmos-{preset}",
    )
    announce(out)
    metrics = run(config, out)
    found = report.table(metrics)
    shown = Table(*found.header, title=report.verdict(metrics), title_justify="left")
    for row in found.rows:
        shown.add_row(*map(str, row))
    console = Console()
    console.print(shown)
    minutes = sum(metrics["stage_seconds"].values()) / 60
    console.print(f"{metrics['parameters']:,} parameters, {metrics['steps']:,} steps, {minutes:.1f} minutes")
    console.print(f"page: {out / 'report.html'}", markup=False)
    return 0


def ground(arguments: list[str], name: str, announce: Callable[[Path], None]) -> int:
    """`pmpjax kosmos ground`."""
    import tyro

    from pmpjax.multimodal.geometry import read_image, resize
    from pmpjax.multimodal.reading import ground as find
    from pmpjax.multimodal.report import draw_boxes
    from pmpjax.multimodal.scene_rows import PHRASES, unknown_words
    from pmpjax.multimodal.training import load_reader

    def options(
        image: tyro.conf.Positional[Path],
        phrase: tyro.conf.Positional[str],
        run: Path = Path("runs/kosmos"),
        out: Path | None = None,
    ) -> tuple[Path, str, Path, Path]:
        """Finds what a phrase names in an image, and draws its box.

        Args:
            image: Any image file.
            phrase: Such as "a red square".
            run: The folder of a finished `pmpjax kosmos train`.
            out: The PNG with the box; by default in the image's folder, as NAME.boxes.png.
        """
        return image, phrase, run, out or image.with_suffix(".boxes.png")

    image, phrase, run, out = tyro.cli(options, prog=name, args=arguments)
    if unknown := unknown_words(phrase):
        print(
            f"note: no phrase in training had {', '.join(unknown)}; it had phrases such as {PHRASES}", file=sys.stderr
        )
    pixels = read_image(image)
    reader, config = load_reader(run)
    square, placement = resize(pixels, config.scenes.size)
    boxes = placement.back(find(reader, [square], [phrase])[0])
    draw_boxes(out, pixels, boxes)
    if len(boxes):
        sides = [pixels.shape[1], pixels.shape[0]] * 2
        left, top, right, bottom = (box * side for box, side in zip(boxes[0].tolist(), sides, strict=True))
        print(f"{phrase}: left {left:.0f}, top {top:.0f}, right {right:.0f}, bottom {bottom:.0f} pixels")
    else:
        print(f"{phrase}: not here")
    print(f"picture: {out}")
    return 0


COMMANDS = {
    ("kosmos", "train"): Command("a small Kosmos-2 on generated scenes: text and boxes from images", train),
    ("kosmos", "ground"): Command("where an image shows what a phrase names, by a trained run", ground),
}
