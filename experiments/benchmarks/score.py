"""The stage `score` against the bare jitted forward pass over the same shapes, interleaved.

    python experiments/benchmarks/score.py [RUN] [--rounds 40] [--rows 1024]

RUN is the folder of a `pmpjax pds run` (runs/pds-run), of which the corpus and the scorer are taken. In a round the
stage scores the next documents of the corpus, with all that belongs to it: cutting into shards and batches, transfers,
tables, Parquet, checking and removing the shards. Then, or before, the bare pass is called on the same batches, which
lie on the device already. Neither compiles. Writes score.md and score.json next to this file.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pmpjax.costs.utilisation import peak_flops
from pmpjax.data import Prepared, load_prepared
from pmpjax.models import ScorerModel
from pmpjax.pds.stages.score import build_score
from pmpjax.scoring.engine import ScoreConfig, computed_tokens, length_batches
from pmpjax.scoring.shards import prepared_shards
from pmpjax.train import load_params
from pmpjax.train.model import ModelConfig, forward_flops


class Silent:
    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        pass


def documents_from(prepared: Prepared, first: int, rows: int) -> tuple[Prepared, int]:
    """The documents from `first` on that have `rows` rows together, and the one behind them; 0 at the corpus's end."""
    table = prepared.documents
    begin = int(table.first_row[first])
    stop = int(np.searchsorted(table.first_row + table.n_rows, begin + rows, side="right"))
    part = slice(first, max(stop, first + 1))
    end = int(table.first_row[part.stop - 1] + table.n_rows[part.stop - 1])
    columns = {name: getattr(table, name)[part] for name in ("ids", "origins", "n_bytes", "n_tokens", "n_rows")}
    documents = table._replace(**columns, first_row=table.first_row[part] - begin)
    own = slice(begin, end)
    taken = prepared._replace(
        documents=documents,
        source=prepared.source.take(own),
        source_document=prepared.source_document[own] - first,
    )
    return taken, part.stop if end + rows <= len(prepared.source.tokens) else 0


def timed(work: Callable[[], Any]) -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime}


def stage(config: ScoreConfig, model: ModelConfig, prepared: Prepared, params: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_score(config, model, prepared, params, Path(folder), Silent())


def measure(run: Path, rounds: int, rows: int) -> dict:
    config, model = ScoreConfig(known_rows="predicted"), ModelConfig()
    prepared = load_prepared(run / "prepare")
    decoder = model.decoder(prepared.vocabulary)
    params = jax.device_put(load_params(run / "fit" / "params"))
    scorer = ScorerModel(decoder)
    bare = jax.jit(lambda params, tokens, lengths: scorer.apply({"params": params}, tokens, lengths))
    results: dict = {"stage": [], "bare": [], "tokens": [], "computed": [], "peak": []}

    longest, first = prepared.source.tokens.shape[1], 0
    shapes = {batch.length for batch in length_batches(prepared.source.lengths, longest, config)}
    begin = time.perf_counter()
    for length in shapes:
        bare(params, np.zeros((config.batch, length), np.int32), np.ones(config.batch, np.int32)).block_until_ready()
    results["compilation"], results["shapes"] = time.perf_counter() - begin, len(shapes)

    for turn in range(rounds + 1):  # the first one compiles the stage's own function
        part, first = documents_from(prepared, first, rows)
        inputs = []
        for shard in prepared_shards(part, config.shard):
            for batch in length_batches(shard.lengths, longest, config):
                missing = config.batch - len(batch.rows)
                tokens = np.pad(shard.tokens[batch.rows, : batch.length], ((0, missing), (0, 0)))
                inputs.append(jax.device_put((tokens, np.pad(shard.lengths[batch.rows], (0, missing)))))

        works = {
            "stage": lambda: stage(config, model, part, params),
            "bare": lambda: jax.block_until_ready([bare(params, tokens, lengths) for tokens, lengths in inputs]),
        }
        order = ("stage", "bare") if turn % 2 else ("bare", "stage")
        found = {kind: timed(works[kind]) for kind in order}
        if turn:
            for kind, answer in found.items():
                results[kind].append(answer)
            results["tokens"].append(int(part.source.lengths.sum()))
            results["computed"].append(computed_tokens(part.source.lengths, longest, config))
            ratio = found["bare"]["seconds"] / found["stage"]["seconds"]
            print(f"{turn}/{rounds} stage {found['stage']['seconds']:.2f} s, {ratio:.1%} of bare", file=sys.stderr)
        results["peak"].append(peak_flops())
    return results | {"flops_per_token": forward_flops(decoder, 1, output=False), "batch": config.batch}


def table(results: dict) -> tuple[str, dict]:
    rounds = len(results["tokens"])
    pairs = list(zip(results["stage"], results["bare"], strict=True))
    facts: dict = {
        "ratio": statistics.median(bare["seconds"] / stage["seconds"] for stage, bare in pairs),
        "cpu_ratio": statistics.median(bare["cpu"] / stage["cpu"] for stage, bare in pairs),
        "quartiles": np.quantile([bare["seconds"] / stage["seconds"] for stage, bare in pairs], [0.25, 0.75]).tolist(),
        "compilation_seconds": results["compilation"],
        "shapes": results["shapes"],
        "padding": 1 - sum(results["tokens"]) / sum(results["computed"]),
        "rounds": rounds,
        "documents_tokens_a_round": statistics.median(results["tokens"]),
        "peak_gigaflops": max(results["peak"]) / 1e9,
    }
    rows = []
    for kind, label in (("stage", "stage `score`"), ("bare", "bare forward pass")):
        speeds = [tokens / answer["seconds"] for tokens, answer in zip(results["tokens"], results[kind], strict=True)]
        computed = [
            computed * results["flops_per_token"] / answer["seconds"]
            for computed, answer in zip(results["computed"], results[kind], strict=True)
        ]
        facts[kind] = {
            "tokens_per_second": statistics.median(speeds),
            "fastest": max(speeds),
            "cpu_seconds": statistics.median(answer["cpu"] for answer in results[kind]),
            "gigaflops": statistics.median(computed) / 1e9,
        }
        own = facts[kind]
        rows.append(
            f"| {label} | {own['tokens_per_second']:,.0f} | {own['fastest']:,.0f} | {own['cpu_seconds']:.2f} | "
            f"{own['gigaflops']:.0f} |"
        )
    low, high = facts["quartiles"]
    head = (
        f"Preset `tiny`, batches of {results['batch']} rows of {facts['shapes']} lengths, {rounds} interleaved rounds "
        f"of {facts['documents_tokens_a_round']:,.0f} tokens of documents.\n"
        f"The stage runs at **{facts['ratio']:.1%}** of the bare pass (median of the rounds' ratios, quartiles "
        f"{low:.1%} and {high:.1%}; {facts['cpu_ratio']:.1%} by CPU time). {facts['padding']:.1%} of what both compute "
        f"is padding. Compilation, apart: {facts['compilation_seconds']:.1f} s for the {facts['shapes']} shapes. "
        f"Matmul peak in the same run: {facts['peak_gigaflops']:.0f} GFLOP/s.\n"
    )
    columns = "| | documents' tokens/s, median | fastest | CPU s a round | GFLOP/s in products |\n" + "|---" * 5 + "|"
    return "\n".join([head, columns, *rows]) + "\n", facts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/pds-run"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1024)
    options = parser.parse_args()
    text, facts = table(measure(options.run, options.rounds, options.rows))
    here = Path(__file__).with_suffix("")
    here.with_suffix(".md").write_text(f"`python experiments/benchmarks/score.py`\n\n{text}", encoding="utf-8")
    here.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
