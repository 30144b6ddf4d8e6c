"""Our training step against the same architecture and weights in transformers on PyTorch, interleaved.

    python experiments/benchmarks/train_step.py [--rounds 8] [--steps 6]

Needs the extra `parity` (torch, transformers). Two processes with two threads each take turns: one trains while the
other waits. Both start from the same weights and see the same batches; the losses of the first steps are compared.
Memory is the process's peak resident size. Writes train_step.md and train_step.json beside this file.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {"width": 256, "layers": 6, "heads": 8, "key_value_heads": 4, "hidden": 688, "window": 4096, "loss_chunk": 0}
VOCABULARY, LENGTH, BATCH, RATE, THREADS = 4096, 256, 16, 1e-3, 2


def tokens(step: int) -> np.ndarray:
    return np.random.default_rng([0, step]).integers(0, VOCABULARY, (BATCH, LENGTH + 1), dtype=np.int32)


def ours(weights: str):
    import optax

    from pmpjax.data import Rows
    from pmpjax.models import Decoder, example_losses, load_pretrained
    from pmpjax.train import train, train_step

    config, params = load_pretrained(weights)
    config = dataclasses.replace(config, loss_chunk=SIZES["loss_chunk"])
    losses = example_losses(Decoder(config))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=0.1))
    lengths = np.full(BATCH, LENGTH + 1, np.int32)
    yield None
    while True:
        # Each turn starts from the first weights, and includes the loop's own copies and bookkeeping.
        steps = yield
        batches = [Rows(tokens(step), lengths) for step in range(steps)]
        yield train(train_step(losses, optimizer, steps_per_call=steps), params, batches, steps).losses.tolist()


def peer(weights: str):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(weights, attn_implementation="sdpa").train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    yield None
    while True:
        steps = yield
        model.load_state_dict(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.1, fused=True)
        seen = []
        for step in range(steps):
            batch = torch.from_numpy(tokens(step).astype(np.int64))
            optimizer.zero_grad()
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seen.append(loss.detach())
        yield [float(loss) for loss in seen]


def work(kind: str, weights: str) -> None:
    """A worker: for every number of steps on stdin, trains that many and answers seconds, losses and memory."""
    turns = {"ours": ours, "peer": peer}[kind](weights)
    next(turns)
    for line in sys.stdin:
        next(turns)
        used = resource.getrusage(resource.RUSAGE_SELF)
        begin = time.perf_counter()
        losses = turns.send(int(line))
        seconds = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        answer = {"seconds": seconds, "cpu": cpu, "losses": losses, "megabytes": after.ru_maxrss / 1024}
        print(json.dumps(answer), flush=True)


def measure(rounds: int, steps: int) -> dict:
    import jax

    from pmpjax.costs.utilisation import peak_flops
    from pmpjax.models import Decoder, DecoderConfig, initialise, save_pretrained

    config = DecoderConfig(vocabulary=VOCABULARY, **SIZES)
    results: dict[str, list] = {"ours": [], "peer": [], "peak": []}
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights")
        save_pretrained(weights, config, initialise(Decoder(config), jax.random.key(0), np.zeros((1, 8), np.int32)))
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "TRANSFORMERS_VERBOSITY": "error"}
        workers = {
            kind: subprocess.Popen(
                [sys.executable, __file__, "--worker", kind, weights],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for kind in ("ours", "peer")
        }
        for turn in range(rounds + 1):  # the first one compiles
            for kind in ("ours", "peer") if turn % 2 else ("peer", "ours"):
                worker = workers[kind]
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.write(f"{steps}\n")
                worker.stdin.flush()
                answer = json.loads(worker.stdout.readline())
                if turn:
                    results[kind].append(answer)
                    print(f"{turn}/{rounds} {kind}: {answer['seconds'] / steps * 1e3:.0f} ms a step", file=sys.stderr)
            results["peak"].append(peak_flops())
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return results


def table(results: dict, steps: int) -> tuple[str, dict]:
    from pmpjax.models import DecoderConfig
    from pmpjax.train.model import forward_flops

    flops = 3 * forward_flops(DecoderConfig(vocabulary=VOCABULARY, **SIZES), BATCH * LENGTH)
    peak = max(results["peak"])
    rows, facts = [], {}
    for kind, label in (("ours", "pmpjax"), ("peer", "transformers, PyTorch")):
        times = [answer["seconds"] / steps for answer in results[kind]]
        facts[kind] = {
            "milliseconds": statistics.median(times) * 1e3,
            "fastest": min(times) * 1e3,
            "cpu_seconds": statistics.median(answer["cpu"] / steps for answer in results[kind]),
            "tokens_per_second": BATCH * LENGTH / statistics.median(times),
            "megabytes": max(answer["megabytes"] for answer in results[kind]),
            "utilisation": flops / statistics.median(times) / peak,
        }
        row = facts[kind]
        rows.append(
            f"| {label} | {row['tokens_per_second']:,.0f} | {row['milliseconds']:,.0f} | {row['fastest']:,.0f} | "
            f"{row['cpu_seconds']:.2f} | {row['megabytes']:,.0f} | {row['utilisation']:.0%} |"
        )
    pairs = [a["seconds"] / b["seconds"] for a, b in zip(results["peer"], results["ours"], strict=True)]
    first = [results[kind][0]["losses"] for kind in ("ours", "peer")]
    facts |= {
        "ratio": statistics.median(pairs),
        "memory_ratio": facts["ours"]["megabytes"] / facts["peer"]["megabytes"],
        "largest_difference_of_losses": float(np.abs(np.subtract(*first)).max()),
        "peak_gigaflops": peak / 1e9,
    }
    head = (
        f"d {SIZES['width']}, {SIZES['layers']} layers, vocabulary {VOCABULARY}, {BATCH} x {LENGTH} tokens, AdamW, "
        f"clip; {THREADS} threads, {len(pairs)} interleaved rounds of {steps} steps.\n"
        f"{facts['ratio']:.2f}x the tokens/s of the peer (median of the rounds' ratios), {facts['memory_ratio']:.2f}x "
        f"its memory. Losses of the {steps} steps differ by at most "
        f"{facts['largest_difference_of_losses']:.1e}. Matmul peak in the same run: {peak / 1e9:.0f} GFLOP/s.\n"
    )
    columns = (
        "| | tokens/s | ms a step, median | fastest | CPU s a step | peak MB | of the matmul peak |\n" + "|---" * 7
    )
    return "\n".join([head, columns + "|", *rows]) + "\n", facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--worker", nargs=2)
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker)
    text, facts = table(measure(options.rounds, options.steps), options.steps)
    here = Path(__file__).with_suffix("")
    here.with_suffix(".md").write_text(f"`python experiments/benchmarks/train_step.py`\n\n{text}", encoding="utf-8")
    here.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
