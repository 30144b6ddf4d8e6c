"""Scores of texts of known quality: noise scores low, and a shuffled copy lower than its original."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

import pmpjax as pmp
from pmpjax.data import Prepared, Rows
from pmpjax.data.noise import random_documents, with_noise
from pmpjax.data.prepared import load_kept
from pmpjax.models import Decoder
from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.pipeline import STAGES
from pmpjax.pds.stages.evaluate import METHOD
from pmpjax.pds.stages.proxy import load_proxy
from pmpjax.pds.sweep.outer import algorithm_1, inner_run, setting, solve_at
from pmpjax.pds.sweep.problem import Proxy
from pmpjax.pds.sweep.scores import instance_scores
from pmpjax.pds.work import Work
from pmpjax.runs import stored_config
from pmpjax.runs.pipeline import Pipeline
from pmpjax.runs.seeds import stage_generator
from pmpjax.scoring.engine import score_shard
from pmpjax.scoring.shards import Shard
from pmpjax.train import load_params
from pmpjax.train.warm_start import WarmStart

COMMAND = "pds noise"


class NoiseRanks(NamedTuple):
    """Where documents of noise lie among those of the source.

    documents: of noise. in_lowest_third: share of them with a score below the lowest third of the source's. median,
    highest: of the share of the source's documents that a document of noise scores above.
    """

    documents: int
    in_lowest_third: float
    median: float
    highest: float


def check_injected(out: Path, folder: Path, *, share: float = 0.01) -> dict[str, NoiseRanks]:
    """Where each method of the run `out` ranks noise that lies in the source from the beginning.

    The stages from proxy to score, and the run's baselines, are built again in the run directory `folder`, from the
    source of `out` and noise of `share` of its tokens (`with_noise`); a killed check goes on where it stopped.

    Returns:
        the ranks of noise by method, PDS first.

    Raises:
        ValueError: where `out` has no stage prepare.
    """
    config = stored_config(out, PDSConfig)
    if config is None or not (out / "prepare").exists():
        raise ValueError(f"{out} has no stage prepare; run `pmpjax pds prepare --out {out}` first")
    clean = load_kept(out / "prepare")
    noisy = with_noise(clean, share, config.seed)
    pipeline = Pipeline(
        COMMAND,
        {name: STAGES[name] for name in ("proxy", "solve", "fit", "score", "baselines")},
        functools.partial(Work, source=noisy),
        lambda config: {**deciding(config), "share": share},
    )
    with pipeline.open(config, folder, given={"prepare": out / "prepare"}) as running:
        folders = running.build_all()
    scores = {METHOD: folders["score"] / "scores.parquet"}
    scores |= {name: folders["baselines"] / f"{name}.parquet" for name in config.baselines}
    return {name: noise_ranks(_column(path), len(clean.documents.ids)) for name, path in scores.items()}


def noise_ranks(scores: Float[np.ndarray, " documents"], clean: int) -> NoiseRanks:
    """Of scores of `clean` documents of the source, and then of noise.

    >>> noise_ranks(np.array([1.0, 2.0, 3.0, 4.0, 0.0, 2.5]), clean=4)
    NoiseRanks(documents=2, in_lowest_third=0.5, median=0.25, highest=0.5)
    """
    source, noise = np.sort(scores[:clean]), scores[clean:]
    above = np.searchsorted(source, noise) / clean
    lowest = float(np.mean(noise < np.quantile(source, 1 / 3)))
    return NoiseRanks(len(noise), lowest, float(np.median(above)), float(above.max()))


def _column(path: Path) -> np.ndarray:
    return np.asarray(pq.read_table(path, columns=["score"])["score"], np.float64)


def check_scores(out: Path, *, documents: int = 300, pairs: int = 256) -> dict[str, Any]:
    """Both checks on a run directory whose stages up to `score` are whole; nothing is written.

    Returns:
        `random_in_lowest_third`: share of `documents` documents of uniformly random tokens, as long as the corpus's,
        that the scorer puts below the lowest third of the corpus, though neither the proxy nor it has seen any
        (`pmpjax.pds.checks.check_injected` is for noise that lies in the source). `shuffled_below`: share of `pairs`
        rows of the target's test split whose copy with its tokens in random order has a lower PDS score, by one more
        sweep.
    """
    config = stored_config(out, PDSConfig)
    if config is None or not (out / "score").exists():
        raise ValueError(f"{out} has no stage score; run `pmpjax pds score --out {out}` first")
    data = load_kept(out / "prepare")
    corpus = np.asarray(pq.read_table(out / "score" / "scores.parquet", columns=["score"])["score"])
    random = random_scores(config, data, load_params(out / "fit" / "params"), documents)
    original, shuffled = shuffled_scores(config, data, load_proxy(config.proxy, out / "proxy"), pairs)
    return {
        "random_in_lowest_third": float(np.mean(random < np.quantile(corpus, 1 / 3))),
        "documents": documents,
        "shuffled_below": float(np.mean(shuffled < original)),
        "pairs": len(original),
    }


def random_scores(config: PDSConfig, data: Prepared, scorer: Any, count: int) -> np.ndarray:
    """The scorer's predictions for `count` documents of uniformly random tokens, as long as the corpus's: [count]."""
    generator = stage_generator(config.seed, "checks", "random")
    sizes = generator.choice(data.documents.n_tokens, count)
    rows, document = random_documents(data, sizes, generator)
    names = np.array([f"random-{index}" for index in range(count)], object)
    shard = Shard(rows.tokens, rows.lengths, document, names, 0)
    table = score_shard(config.scorer_model.decoder(data.vocabulary), scorer, shard, config.score)
    return np.asarray(table["score"])


def shuffled_scores(config: PDSConfig, data: Prepared, proxy: WarmStart, count: int) -> tuple[np.ndarray, np.ndarray]:
    """PDS scores of rows of the target's test split, and of the same rows with their tokens in random order: [P], [P].

    The sweep is the stage solve's own: same instances, batches and dev rows.
    """
    generator = stage_generator(config.seed, "checks", "shuffled")
    long = np.flatnonzero(data.test.lengths >= config.solve.minimum_tokens)
    rows = np.sort(generator.permutation(long)[:count])
    tokens, lengths = data.test.tokens[rows], data.test.lengths[rows]
    shuffled = tokens.copy()
    for row, length in zip(shuffled, lengths, strict=True):
        generator.shuffle(row[:length])
    decoder = Decoder(config.proxy_model.decoder(data.vocabulary))
    everything = setting(config.solve, Proxy(decoder, proxy), data, config.seed)
    *before, last = config.solve.trajectories
    run = inner_run(everything, last, algorithm_1(everything, before))
    # The proxy set is scored as well: its spread is the scale on which scores along two runs are added.
    others = Rows(np.concatenate([tokens, shuffled]), np.concatenate([lengths, lengths]))
    scores = instance_scores(solve_at(everything, last, run, pmp.uniform(len(run.members)), others))
    return scores[-2 * len(rows) : -len(rows)], scores[-len(rows) :]
