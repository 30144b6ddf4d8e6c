"""Tokens per second of option scoring compared with the bare forward pass, in turn, on the same prompts.

    python experiments/benchmarks/options.py

Both passes read the same rows of equal length; the bare one makes the logits of every position.
"""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
import tyro

from pmpjax.models import Decoder, load_pretrained
from pmpjax.models.layers import apply
from pmpjax.runs.files import write_json, write_text
from pmpjax.scoring.options import Item, OptionScoring, option_log_probabilities


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    model: str = "smollm2"
    items: int = 32
    length: int = 96
    batch: int = 16
    rounds: int = 5
    out: pathlib.Path = pathlib.Path(__file__).parent


def measure(options: Options) -> dict[str, Any]:
    config, params = load_pretrained(options.model, scan_layers=True)
    decoder = Decoder(config)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (options.items, options.length), dtype=np.int32)
    prefix = tokens[0].tolist()
    one = [Item(row.tolist(), [[10], [11], [12], [13]]) for row in tokens]
    several = [Item(row.tolist(), [[10, 1], [11], [12, 2, 3], [13]]) for row in tokens]
    scoring = OptionScoring(batch=options.batch, buckets=1)
    bare = jax.jit(lambda rows: apply(decoder, params, rows))

    def forward() -> None:
        for begin in range(0, options.items, options.batch):
            jax.block_until_ready(bare(tokens[begin : begin + options.batch]))

    methods = {
        "bare forward pass": forward,
        "options of one token": lambda: option_log_probabilities(decoder, params, one, scoring),
        "the same behind a prefix": lambda: option_log_probabilities(decoder, params, one, scoring, prefix=prefix),
        "four options of up to three tokens": lambda: option_log_probabilities(decoder, params, several, scoring),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(options.rounds + 1):  # the first compiles
        for name, run in methods.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    total = options.items * options.length
    base = seconds["bare forward pass"]
    return {
        name: {
            "prompt_tokens_per_second": total / statistics.median(times),
            "of_bare": statistics.median(b / t for b, t in zip(base, times, strict=True)),
        }
        for name, times in seconds.items()
    }


def main(options: Options) -> None:
    found = measure(options)
    lines = ["| pass | prompt tokens per second | of the bare forward pass |", "|---|---|---|"]
    lines += [f"| {name} | {r['prompt_tokens_per_second']:,.0f} | {r['of_bare']:.2f} |" for name, r in found.items()]
    text = "\n".join(
        [
            "# Option scoring compared with the bare forward pass",
            "",
            f"`python experiments/benchmarks/options.py`: {options.model}, {options.items} prompts of {options.length} "
            f"tokens in batches of {options.batch}, medians of {options.rounds} interleaved rounds, two CPU cores.",
            "",
            *lines,
            "",
        ]
    )
    write_json(options.out / "options.json", found)
    write_text(options.out / "options.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
