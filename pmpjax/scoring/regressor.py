"""A regressor on text: a decoder's trunk with a head, fitted to any target of a row."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from pmpjax.data import batch_schedule, scheduled_batches
from pmpjax.models import DecoderConfig, ScorerModel, initialise, with_trunk
from pmpjax.models.layers import apply
from pmpjax.statistics import clipped
from pmpjax.train import OptimizerConfig, Report, Saving, Trained, adamw, train, train_step
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How the regressor is fitted.

    Attributes:
        epochs: passes over the training rows. One is best where there are rows enough: the noise of their targets
            cannot be learnt by heart.
        batch: rows of a step.
        held_out: share of the documents that the regressor is measured on and never trained on.
        clip: targets further than this many deviations from the median are taken as that far (`clipped`); None takes
            them as they are, which is enough for SGD's scores, all within nine. Some of AdamW's are forty deviations
            away, and a squared error would look at little else.
        model: the decoder below the head; None is the one whose trained trunk is given, from which the regressor
            starts. Another one starts from a random init.
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


class Targets(NamedTuple):
    """Standardised targets.

    Fields:
        values: [M] float32.
        mean, deviation: of the training part after clipping; the deviation is 0 where all are equal.
        clipped: share of the training part that was clipped.
    """

    values: np.ndarray
    mean: float
    deviation: float
    clipped: float


def standard_targets(
    scores: Float[np.ndarray, " instances"], training: Bool[np.ndarray, " instances"], clip: float | None
) -> Targets:
    """(c(s) - mean) / deviation, c the clipping of `clipped` (None: none), all of it by the training part alone.

    >>> standard_targets(np.array([1.0, 3.0, 9.0]), np.array([True, True, False]), None).values.tolist()
    [-1.0, 1.0, 7.0]
    """
    near = scores if clip is None else clipped(scores, scores[training], clip)
    mean, deviation = near[training].mean(), near[training].std()
    values = ((near - mean) / (deviation or 1.0)).astype(np.float32)
    return Targets(values, mean, deviation, float(np.mean(near[training] != scores[training])))


class Seeds(NamedTuple):
    """init: the key of the head, and of a trunk that is not given. order: the seed of the batches."""

    init: Array
    order: int


def fit_regressor(
    config: FitConfig,
    decoder: DecoderConfig,
    rows: dict[str, np.ndarray],
    seeds: Seeds,
    trunk: Any = None,
    *,
    checkpoints: Path,
    progress: Callable[[Report], None],
    mesh: Mesh | None = None,
) -> Trained:
    """theta = argmin mean_r (m_theta(r) - y_r)^2 by AdamW, from `trunk` (a decoder's parameters) where it is given.

    Args:
        rows: tokens [R, L], lengths [R] and target [R], by name.
        checkpoints: folder for the states from which a killed fit goes on.

    Source: PDS (arXiv 2410.07064), section 2.3.
    """
    scorer, count = ScorerModel(decoder), len(rows["target"])
    steps = config.steps(count)
    initial = initialise(scorer, seeds.init, rows["tokens"][:1], rows["lengths"][:1])
    return train(
        train_step(
            squared_errors(scorer), adamw(config.optimizer, steps), mesh=mesh, steps_per_call=config.steps_per_call
        ),
        initial if trunk is None else with_trunk(initial, trunk),
        scheduled_batches(rows, batch_schedule(count, steps, config.batch, seed=seeds.order)),
        steps,
        saving=Saving(checkpoints, config.save_every),
        progress=progress,
    )


def squared_errors(scorer: ScorerModel) -> Callable[[Any, dict[str, Any]], Array]:
    """losses(params, batch) -> [B]: (m(tokens, lengths) - target)^2 of a batch with these three by name."""

    def losses(params: Any, batch: dict[str, Any]) -> Array:
        return jnp.square(apply(scorer, params, batch["tokens"], batch["lengths"]) - batch["target"])

    return losses


def fit_flops(config: FitConfig, decoder: DecoderConfig, rows: int, instances: int, length: int) -> float:
    """FLOPs of a fit to `rows` of the `instances`, and of one prediction for each of these."""
    return forward_flops(decoder, (3 * config.steps(rows) * config.batch + instances) * length, output=False)


def held_out(
    document: Int[np.ndarray, " instances"], share: float, generator: np.random.Generator
) -> Bool[np.ndarray, " instances"]:
    """Which instances are kept for measuring: all of a random `share` of the documents, at least one document."""
    unique = np.unique(document)
    chosen = generator.permutation(unique)[: max(1, round(share * len(unique)))]
    return np.isin(document, chosen)
