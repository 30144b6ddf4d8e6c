"""`pmpjax train`, killed at random moments and started again, ends with the bits of the run that was left alone."""

import random
import time

import pytest

from pmpjax.runs.metrics import read_metrics
from tests.corpora import write_texts
from tests.killing import finish, kill_and_resume, start

OPTIONS = """
    --corpus.vocabulary 300 --model.width 16 --model.layers 1 --model.heads 2 --model.key-value-heads 1
    --model.hidden 32 --length 16 --batch 8 --accumulate 2 --evaluate-every 25 --save-every 8
    --optimizer.warmup-steps 5
"""


def begin(folder, out, steps):
    corpus = ["--corpus.source", folder / "train.jsonl", "--corpus.heldout", folder / "heldout.jsonl"]
    options = [*corpus, *OPTIONS.split(), "--steps", steps, "--out", out]
    return start("-m", "pmpjax", "train", *options, cache=folder / "cache")


def newest(out):
    """Step of the newest checkpoint, 0 where there is none yet."""
    names = (path.name for path in (out / "train.partial" / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def numbers(out):
    changing = {"time", "seconds_per_step", "host_wait", "tokens_per_second", "utilisation"}
    lines = read_metrics(out / "train" / "metrics")
    return [{key: value for key, value in line.items() if key not in changing} for line in lines]


@pytest.mark.parametrize("kills, steps", [(1, 120), pytest.param(12, 320, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, kills, steps):
    for name, count, seed in (("train", 60, 0), ("heldout", 20, 1)):
        write_texts(tmp_path / f"{name}.jsonl", 0, count, seed)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(begin(tmp_path, whole, steps))
    generator = random.Random(kills)

    def moments():
        # All kills together leave the second half of the steps: each waits for its share of the first. Where the run is
        # ahead of that, the moment is any from its start to the next checkpoint.
        for kill in range(kills):
            before, goal = newest(out), steps * (kill + 1) // (2 * kills) - 8
            latest = time.monotonic() + (generator.uniform(0, 4) if goal <= before else 60)
            pause = generator.uniform(0, 0.1)

            def ready(at=max(goal, before + 1), latest=latest, pause=pause):
                if newest(out) < at and time.monotonic() < latest:
                    return False
                time.sleep(pause)
                return True

            yield ready

    kill_and_resume(lambda: begin(tmp_path, out, steps), moments())
    for name in ("corpus/tokenizer.json", "train/params.npz", "train/curves.npz"):
        assert (whole / name).read_bytes() == (out / name).read_bytes(), name
    assert numbers(whole) == numbers(out)
