"""The stage `fit`: a scorer that tells an instance's worth from its text."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh
from jaxtyping import Array

from pmpjax.data import Prepared, batch_schedule, scheduled_batches
from pmpjax.models import DecoderConfig, ScorerModel, initialise, with_trunk
from pmpjax.models.layers import apply
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed
from pmpjax.scoring.engine import predict
from pmpjax.statistics import clipped, rank_correlation
from pmpjax.train import OptimizerConfig, Saving, adamw, save_params, train, train_step
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How the scorer is trained.

    Attributes:
        epochs: passes over the training part of the proxy set. One is best where there are instances enough: the
            scorer cannot learn their noise by heart.
        batch: rows of a step.
        held_out: share of the proxy set's documents that the scorer is measured on and never trained on.
        clip: scores further than this many deviations from the median are taken as that far (`clipped`); None takes
            them as they are, which is enough for SGD's, all within nine. Among AdamW's are some forty deviations away:
            a squared error would look at little else.
        model: the decoder below the head; None is the proxy's, and starts from its trained trunk. Another one starts
            from a random init.
        optimizer: AdamW.
        save_every: steps between checkpoints.
        steps_per_call: steps that the device makes before the host is asked again.
    """

    epochs: int = 1
    batch: int = 16
    held_out: float = 0.15
    clip: float | None = 3.0
    model: ModelConfig | None = None
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, warmup_steps=20)
    )
    save_every: int = 100
    steps_per_call: int = 10

    def __post_init__(self):
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"fit: clip is {self.clip}, expected a positive number of deviations, or none at all")

    def steps(self, rows: int) -> int:
        """Steps of a fit to `rows` training rows."""
        return max(1, round(self.epochs * rows / self.batch))


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
    """Minimises mean_z (m(z) - (s_z - mean) / sd)^2; leaves params.npz, targets.parquet and fit.json in `folder`.

    `scores` is the stage solve's scores.parquet; `model` the proxy's, whose trained trunk the scorer starts from unless
    `config.model` is another one. Standardised by the training part, after `clipped` where the config says so. fit.json
    has the Spearman correlation on held-out documents and on as many rows (`asked`) of the training part, the sizes of
    both parts, and the share of the training part that was clipped. targets.parquet: row, target, what the scorer was
    to say of each instance.

    Source: PDS (arXiv 2410.07064), section 2.3.
    """
    table = pq.read_table(scores).to_pydict()
    rows, score = np.asarray(table["row"]), np.asarray(table["score"], np.float64)
    kept_out = held_out(np.asarray(table["document"]), config.held_out, seed)
    if kept_out.all():
        raise ValueError(
            f"no document of the proxy set is left to train the scorer on: {len(rows)} instances, held-out share "
            f"{config.held_out}; lower --fit.held-out or give a larger source"
        )
    near = score if config.clip is None else clipped(score, score[~kept_out], config.clip)
    mean, deviation = near[~kept_out].mean(), near[~kept_out].std()
    target = ((near - mean) / (deviation or 1.0)).astype(np.float32)
    tokens, lengths = prepared.source.tokens[rows], prepared.source.lengths[rows]

    decoder_config = (config.model or model).decoder(prepared.vocabulary)
    scorer = ScorerModel(decoder_config)

    train_rows = np.flatnonzero(~kept_out)
    steps = config.steps(len(train_rows))
    initial = initialise(scorer, stage_key(seed, "fit", "init"), tokens[:1], lengths[:1])
    trained = train(
        train_step(
            squared_errors(scorer), adamw(config.optimizer, steps), mesh=mesh, steps_per_call=config.steps_per_call
        ),
        with_trunk(initial, proxy_params) if config.model is None else initial,
        scheduled_batches(
            {"tokens": tokens[train_rows], "lengths": lengths[train_rows], "target": target[train_rows]},
            batch_schedule(len(train_rows), steps, config.batch, seed=stage_seed(seed, "fit", "order")),
        ),
        steps,
        saving=Saving(folder / "checkpoints", config.save_every),
        progress=lambda report: bar.update(report.steps, mse=report.loss),
    )
    save_params(folder / "params", trained.params)
    with atomic(folder / "targets.parquet") as temporary:
        pq.write_table(pa.table({"row": rows, "target": target}), temporary, compression="zstd")
    asked = {
        "held_out": np.flatnonzero(kept_out),
        "train": np.sort(stage_generator(seed, "fit", "asked").permutation(train_rows)[: kept_out.sum()]),
    }
    spearman = {
        name: rank_correlation(predict(decoder_config, trained.params, tokens[at], lengths[at], mesh=mesh), score[at])
        for name, at in asked.items()
    }
    bar.update(0, spearman=float("nan") if spearman["held_out"] is None else spearman["held_out"])
    length = tokens.shape[1]
    write_json(
        folder / "fit.json",
        {
            "spearman": spearman,
            "rows": {"held_out": int(kept_out.sum()), "train": len(train_rows), "asked": len(asked["train"])},
            "score_mean": mean,
            "score_deviation": deviation,
            "clipped": float(np.mean(near[~kept_out] != score[~kept_out])),
            "final_mse": float(trained.losses[-20:].mean()),
            "steps": steps,
            "flops": fit_flops(config, decoder_config, len(train_rows), len(rows), length),
        },
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def squared_errors(scorer: ScorerModel) -> Callable[[Any, dict[str, Any]], Array]:
    """losses(params, batch) -> [B]: (m(tokens, lengths) - target)^2 of a batch with these three by name."""

    def losses(params: Any, batch: dict[str, Any]) -> Array:
        return jnp.square(apply(scorer, params, batch["tokens"], batch["lengths"]) - batch["target"])

    return losses


def fit_flops(config: FitConfig, decoder: DecoderConfig, rows: int, instances: int, length: int) -> float:
    """FLOPs of the stage: training on `rows` of the `instances`, and one prediction for each of these."""
    return forward_flops(decoder, (3 * config.steps(rows) * config.batch + instances) * length, output=False)


def held_out(document: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which instances are kept for measuring: all of a random `share` of the documents (at least one), [M] bool."""
    unique = np.unique(document)
    chosen = stage_generator(seed, "fit", "held out").permutation(unique)[: max(1, round(share * len(unique)))]
    return np.isin(document, chosen)
