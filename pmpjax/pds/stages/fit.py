"""The stage `fit`: a regressor that predicts an instance's score from its text."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh

from pmpjax.data import Prepared
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed
from pmpjax.scoring.engine import predict
from pmpjax.scoring.regressor import FitConfig, Seeds, fit_flops, fit_regressor, held_out, standard_targets
from pmpjax.statistics import rank_correlation
from pmpjax.train import save_params
from pmpjax.train.model import ModelConfig


def build_fit(
    config: FitConfig,
    model: ModelConfig,
    prepared: Prepared,
    scores: Path,
    proxy_params: Any,
    seed: int,
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
) -> None:
    """Minimises mean_z (m(z) - y_z)^2 over the training part of the proxy set, y the standardised scores.

    `scores` is the stage solve's scores.parquet; `model` the proxy's, whose trained trunk the regressor starts from
    unless `config.model` is another one.

    Files:
        params.npz: the regressor.
        targets.parquet: row, target (`standard_targets`) of each instance.
        fit.json: the Spearman correlation on held-out documents and on as many rows (`asked`) of the training part, the
            sizes of both parts, the share of the training part that was clipped, FLOPs.

    Source: PDS (arXiv 2410.07064), section 2.3.
    """
    table = pq.read_table(scores).to_pydict()
    rows, score = np.asarray(table["row"]), np.asarray(table["score"], np.float64)
    generator = stage_generator(seed, "fit", "held out")
    kept_out = held_out(np.asarray(table["document"]), config.held_out, generator)
    if kept_out.all():
        raise ValueError(
            f"no document of the proxy set is left to train the scorer on: {len(rows)} instances, held-out share "
            f"{config.held_out}; lower --fit.held-out or give a larger source"
        )
    targets = standard_targets(score, ~kept_out, config.clip)
    tokens, lengths = prepared.source.tokens[rows], prepared.source.lengths[rows]
    decoder = (config.model or model).decoder(prepared.vocabulary)
    train_rows = np.flatnonzero(~kept_out)
    trained = fit_regressor(
        config,
        decoder,
        {"tokens": tokens[train_rows], "lengths": lengths[train_rows], "target": targets.values[train_rows]},
        Seeds(stage_key(seed, "fit", "init"), stage_seed(seed, "fit", "order")),
        proxy_params if config.model is None else None,
        checkpoints=folder / "checkpoints",
        progress=lambda report: bar.update(report.steps, mse=report.loss),
        mesh=mesh,
    )
    save_params(folder / "params", trained.params)
    with atomic(folder / "targets.parquet") as temporary:
        pq.write_table(pa.table({"row": rows, "target": targets.values}), temporary, compression="zstd")
    asked = {
        "held_out": np.flatnonzero(kept_out),
        "train": np.sort(stage_generator(seed, "fit", "asked").permutation(train_rows)[: kept_out.sum()]),
    }
    spearman = {
        name: rank_correlation(predict(decoder, trained.params, tokens[at], lengths[at], mesh=mesh), score[at])
        for name, at in asked.items()
    }
    bar.update(0, spearman=float("nan") if spearman["held_out"] is None else spearman["held_out"])
    write_json(
        folder / "fit.json",
        {
            "spearman": spearman,
            "rows": {"held_out": int(kept_out.sum()), "train": len(train_rows), "asked": len(asked["train"])},
            "score_mean": targets.mean,
            "score_deviation": targets.deviation,
            "clipped": targets.clipped,
            "final_mse": float(trained.losses[-20:].mean()),
            "steps": config.steps(len(train_rows)),
            "flops": fit_flops(config, decoder, len(train_rows), len(rows), tokens.shape[1]),
        },
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
