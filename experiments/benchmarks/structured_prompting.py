"""Time and compiled memory of contexts against the number of groups, and queries per second against re-encoding.

    python experiments/benchmarks/structured_prompting.py

Writes structured_prompting.json, .md and .png into OUT.
"""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from pmpjax.contexts import attach, build_context
from pmpjax.contexts.structured_prompting.groups import Groups
from pmpjax.costs.compiled import memory
from pmpjax.models import Decoder, empty_cache, initialise, load_pretrained, preset
from pmpjax.models.layers import apply
from pmpjax.runs.files import write_json, write_text
from pmpjax.runs.progress import progress


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how often. `model` is a preset of random weights, or a pretrained model."""

    model: str = "small"
    groups: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    length: int = 128
    query: int = 32
    rows: int = 8
    rounds: int = 5
    out: pathlib.Path = pathlib.Path(__file__).parent


def model_of(name: str) -> tuple[Decoder, Any]:
    try:
        decoder = Decoder(preset(name, 4096, scan_layers=True))
    except ValueError:
        config, params = load_pretrained(name, scan_layers=True)
        return Decoder(config), params
    return decoder, initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))


def seconds(run, rounds: int) -> float:
    run()  # compiles
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def measure(options: Options) -> list[dict[str, Any]]:
    decoder, params = model_of(options.model)
    draw = np.random.default_rng(0)
    query = jnp.asarray(draw.integers(0, decoder.config.vocabulary, (options.rows, options.query)), jnp.int32)
    ask = jax.jit(
        lambda params, attached, query: apply(
            decoder, params, query, cache=empty_cache(decoder.config, *query.shape, attached), method="hidden"
        )[0]
    )
    # Re-encoding: the groups and the queries in one ordinary prompt, as a plain decoder would read them.
    whole = jax.jit(lambda params, tokens: apply(decoder, params, tokens, method="hidden")[:, -1])
    found = []
    with progress("groups", len(options.groups)) as bar:
        for count in options.groups:
            tokens = draw.integers(0, decoder.config.vocabulary, (count, options.length), dtype=np.int32)
            lengths = np.full(count, options.length, np.int32)
            groups = Groups(tokens, lengths, np.zeros(1, np.int32), tuple((i,) for i in range(count)))
            build = lambda: build_context(decoder, params, groups).values  # noqa: E731
            context = build_context(decoder, params, groups)
            attached = attach(decoder, context)
            compiled = ask.lower(params, attached, query).compile()
            row: dict[str, Any] = {
                "groups": count,
                "build_seconds": seconds(build, options.rounds),
                "query_seconds": seconds(lambda: ask(params, attached, query), options.rounds) / options.rows,
                "context_bytes": sum(leaf.nbytes for leaf in (context.keys, context.values)),
                "query_temporary_bytes": memory(compiled).temporary,
            }
            joined = np.concatenate([tokens.reshape(-1), np.asarray(query[0])])[None]
            rounds = max(1, min(options.rounds, 128 // count))
            row["reencoding_seconds"] = seconds(lambda: whole(params, joined), rounds)
            separately = seconds(lambda: (build(), ask(params, attached, query[:1])), rounds)
            row["reencoding_groups_seconds"] = separately
            found.append(row)
            bar.update(1, groups=count)
    return found


def straight(rows: list[dict[str, Any]], name: str) -> float:
    """R^2 of a straight line of the figure against the number of groups."""
    x, y = np.asarray([row["groups"] for row in rows]), np.asarray([row[name] for row in rows], float)
    if len(rows) < 3 or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def draw_figure(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    x = [row["groups"] for row in rows]
    axes[0].plot(x, [row["build_seconds"] for row in rows], "o-", label="build, once")
    axes[0].plot(x, [row["query_seconds"] for row in rows], "s-", label="query")
    axes[0].set_ylabel("seconds")
    axes[1].plot(x, [row["context_bytes"] / 1e6 for row in rows], "o-", label="keys and values")
    axes[1].plot(x, [row["query_temporary_bytes"] / 1e6 for row in rows], "s-", label="temporary, queries")
    axes[1].set_ylabel("MB")
    axes[2].loglog(x, [1 / row["query_seconds"] for row in rows], "s-", label="cached groups")
    axes[2].loglog(x, [1 / row["reencoding_groups_seconds"] for row in rows], "o-", label="groups encoded again")
    axes[2].loglog(x, [1 / row["reencoding_seconds"] for row in rows], "^-", label="one long prompt")
    axes[2].set_ylabel("queries per second")
    for axis in axes:
        axis.set_xlabel("groups M")
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(options: Options) -> None:
    rows = measure(options)
    header = (
        "| M | build, s | query, ms | keys and values, MB | temporary, MB | queries/s | groups encoded again | "
        "one long prompt |"
    )
    lines = [header, "|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['groups']} | {row['build_seconds']:.3f} | {1e3 * row['query_seconds']:.2f} | "
        f"{row['context_bytes'] / 1e6:.1f} | {row['query_temporary_bytes'] / 1e6:.1f} | "
        f"{1 / row['query_seconds']:.1f} | {1 / row['reencoding_groups_seconds']:.2f} | "
        f"{1 / row['reencoding_seconds']:.2f} |"
        for row in rows
    ]
    names = ("build_seconds", "query_seconds", "context_bytes", "query_temporary_bytes")
    fits = {name: straight(rows, name) for name in names}
    text = "\n".join(
        [
            "# Contexts against the number of groups",
            "",
            f"`python experiments/benchmarks/structured_prompting.py`: {options.model}, groups of {options.length} "
            f"tokens, {options.rows} queries of {options.query} tokens at once, medians of {options.rounds} rounds, "
            "two CPU cores.",
            "",
            *lines,
            "",
            "R^2 of a straight line in M: " + ", ".join(f"{name} {value:.4f}" for name, value in fits.items()) + ".",
            "",
            "![time, memory and queries per second against groups](structured_prompting.png)",
            "",
        ]
    )
    write_json(options.out / "structured_prompting.json", {"rows": rows, "straight": fits})
    write_text(options.out / "structured_prompting.md", text)
    draw_figure(rows, options.out / "structured_prompting.png")
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
