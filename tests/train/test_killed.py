"""`pmpjax train`, killed at random moments and started again, ends with the bits of the run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pmpjax.runs.metrics import read_metrics
from tests.pds.synthetic import write_texts

OPTIONS = """
    --corpus.vocabulary 300 --model.width 16 --model.layers 1 --model.heads 2 --model.key-value-heads 1
    --model.hidden 32 --length 16 --batch 8 --accumulate 2 --evaluate-every 25 --save-every 8
    --optimizer.warmup-steps 5
"""


def start(folder, out, steps):
    # Compilations are kept, so that a restart is quick.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
    corpus = ["--corpus.source", str(folder / "train.jsonl"), "--corpus.heldout", str(folder / "heldout.jsonl")]
    options = [*corpus, *OPTIONS.split(), "--steps", str(steps), "--out", str(out)]
    line = [sys.executable, "-m", "pmpjax", "train", *options]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process):
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, error


def newest(out):
    """Step of the newest checkpoint, 0 where there is none yet."""
    names = (path.name for path in (out / "train.partial" / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def numbers(out):
    changing = {"time", "seconds_per_step", "host_wait", "tokens_per_second", "utilisation"}
    lines = read_metrics(out / "train" / "metrics")
    return [{key: value for key, value in line.items() if key not in changing} for line in lines]


@pytest.mark.parametrize("kills, steps", [(1, 120), pytest.param(20, 400, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, kills, steps):
    for name, count, seed in (("train", 60, 0), ("heldout", 20, 1)):
        write_texts(tmp_path / f"{name}.jsonl", 0, count, seed)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(start(tmp_path, whole, steps))
    generator = random.Random(kills)
    for kill in range(kills):
        process = start(tmp_path, out, steps)
        # All kills together leave the second half of the steps: each waits for its share of the first. Where the run is
        # ahead of that, the moment is any from its start to the next checkpoint.
        before, goal = newest(out), steps * (kill + 1) // (2 * kills) - 8
        latest = time.monotonic() + (generator.uniform(0, 4) if goal <= before else 60)
        while newest(out) < max(goal, before + 1) and time.monotonic() < latest and process.poll() is None:
            time.sleep(0.002)  # polls the other process
        time.sleep(generator.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "metrics.json").exists(), "it ended before it was killed: give it more steps"
    finish(start(tmp_path, out, steps))
    for name in ("corpus/tokenizer.json", "train/params.npz", "train/curves.npz"):
        assert (whole / name).read_bytes() == (out / name).read_bytes(), name
    assert numbers(whole) == numbers(out)
