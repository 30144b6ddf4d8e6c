"""The stage `pretrain`: the same decoder on each selection, with equal budgets."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from pmpjax.data import Prepared, Rows, batch_schedule, packed_rows, scheduled_batches
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.runs import read_arrays, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed
from pmpjax.train import OptimizerConfig, Report, Trained, train
from pmpjax.train.branch import Measure, optimizers_of, train_with_branch
from pmpjax.train.heldout import set_loss, spread_rows
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The budget of each run.

    Attributes:
        steps: training steps of each run.
        batch: rows of the selection in a step.
        optimizer: AdamW; at a constant rate after the warm-up, its default, losses at equal steps compare.
        decay: share of the steps that are made a second time, on the same batches, with a rate that falls to zero: the
            branch ends with the model that one would keep, without the noise of a constant rate. It leaves the run at
            a measurement. 0 makes none, nor does a rate that falls anyway or is still in its warm-up there.
        evaluate_every: steps between measurements of the loss on the target.
        dev_rows: rows of the target's dev split measured each time, spread evenly over its documents.
        test_rows: the same of its test split.
        final_rows: the same of each split, once, for the model at the end of the branch.
        save_every: steps between checkpoints.
        steps_per_call: steps that the device makes before the host is asked again; dividing `evaluate_every` it costs
            one compilation.
    """

    steps: int = 600
    batch: int = 16
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    decay: float = 0.1
    evaluate_every: int = 30
    dev_rows: int = 96
    test_rows: int = 192
    final_rows: int = 1024
    save_every: int = 150
    steps_per_call: int = 10

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay}, a share of the steps; it must lie in [0, 1)")

    @property
    def decay_steps(self) -> int:
        """Steps of the decay branch.

        >>> PretrainConfig(steps=600, decay=0.1, evaluate_every=50).decay_steps
        100
        """
        if not self.decay or self.optimizer.schedule != "constant":
            return 0
        every = self.evaluate_every or self.steps
        begin = round(self.steps * (1 - self.decay)) // every * every
        return self.steps - begin if begin >= max(self.optimizer.warmup_steps, 1) else 0

    @property
    def all_steps(self) -> int:
        """Steps of a run and its branch."""
        return self.steps + self.decay_steps


def build_pretrain(
    config: PretrainConfig,
    model: ModelConfig,
    prepared: Prepared,
    selections: dict[tuple[str, int], np.ndarray],
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
) -> None:
    """Trains one model for each (method, seed) of `selections`.

    A seed gives the initial parameters and the order of the data, the same for every method; each method's documents
    are packed into rows, of which all methods of a seed use equally many. The test split is measured beside the dev
    split and decides nothing here.

    Files:
        METHOD-SEED.npz: steps, dev, test (nats a token at those steps), train (loss of each step); with a decay branch
            decayed_dev and decayed_test, of the model at its end on `final_rows` rows.
        METHOD-SEED-params.npz: the final parameters, those of the branch where there is one.
        pretrain.json: of each seed the rows of a pass and the passes that its steps make; steps of the branch, tokens
            and FLOPs.
    A killed run goes on from the newest checkpoint of the run that was under way.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    decoder = Decoder(decoder_config)
    train_on, measure = trainer(config, decoder, prepared, mesh), final_losses(config, decoder, prepared, mesh)
    optimizers = optimizers_of(config.optimizer, config.steps, config.decay_steps)
    rows_of: dict[str, int] = {}
    for seed in sorted({seed for _, seed in selections}):
        packed = {
            method: training_rows(prepared, documents, seed)
            for (method, of_seed), documents in selections.items()
            if of_seed == seed
        }
        count = min(len(rows.tokens) for rows in packed.values())
        rows_of[str(seed)] = count
        schedule = batch_schedule(count, config.steps, config.batch, seed=stage_seed(seed, "pretrain", "order"))
        for method, rows in packed.items():
            name = f"{method}-{seed}"
            if (folder / f"{name}.npz").exists():
                bar.update(config.all_steps)
                continue
            train_to = functools.partial(train_on, Rows(rows.tokens[:count], rows.lengths[:count]), schedule, seed)
            train_with_branch(train_to, measure, optimizers, config.steps, config.decay_steps, folder, name, bar)
    length = prepared.source.tokens.shape[1] - 1
    measured = len(np.unique(np.append(np.arange(0, config.steps, config.evaluate_every), config.steps)))
    shown = min(config.dev_rows, len(prepared.dev.tokens)) + min(config.test_rows, len(prepared.test.tokens))
    at_end = sum(min(config.final_rows, len(rows)) for rows in (prepared.dev.tokens, prepared.test.tokens))
    seen = measured * shown + (at_end if config.decay_steps else 0)
    measuring = forward_flops(decoder_config, seen * length)
    share = config.all_steps / config.steps
    write_json(
        folder / "pretrain.json",
        {
            "rows": rows_of,
            "passes": {seed: config.steps * config.batch / rows for seed, rows in rows_of.items()},
            "decay_steps": config.decay_steps,
            "tokens_seen": config.steps * config.batch * length,
            "runs": [{"method": method, "seed": seed} for method, seed in selections],
            "flops": len(selections) * (pretrain_flops(config, decoder_config, length + 1) * share + measuring),
        },
    )


def trainer(
    config: PretrainConfig, decoder: Decoder, prepared: Prepared, mesh: Mesh | None = None
) -> Callable[..., Trained]:
    """(rows, schedule, seed, steps, optimizer, checkpoints, report) -> the run up to `steps`, from the newest of the
    checkpoints. The seed gives the initial parameters. All runs of one trainer share their compilation."""
    losses = example_losses(decoder)
    evaluate = target_losses(decoder, prepared, config.dev_rows, config.test_rows, mesh)

    def train_on(
        rows: Rows,
        schedule: np.ndarray,
        seed: int,
        steps: int,
        optimizer: optax.GradientTransformation,
        checkpoints: Path,
        report: Callable[[Report], None],
    ) -> Trained:
        return train(
            losses,
            optimizer,
            initialise(decoder, stage_key(seed, "pretrain", "init"), rows.tokens[:1]),
            scheduled_batches(rows, schedule),
            steps,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            checkpoints=checkpoints,
            save_every=config.save_every,
            save_last=True,
            steps_per_call=config.steps_per_call,
            progress=report,
            mesh=mesh,
        )

    return train_on


def final_losses(config: PretrainConfig, decoder: Decoder, prepared: Prepared, mesh: Mesh | None = None) -> Measure:
    """`target_losses` on `config.final_rows` rows of each split, compiled."""
    return jax.jit(target_losses(decoder, prepared, config.final_rows, config.final_rows, mesh))


def target_losses(
    decoder: Decoder, prepared: Prepared, dev_rows: int, test_rows: int, mesh: Mesh | None = None
) -> Measure:
    """params -> mean loss in nats a token on `dev` and `test`, of so many rows of each split, evenly spread."""
    dev = spread_rows(prepared.dev, dev_rows)
    test = spread_rows(prepared.test, test_rows)
    measures = {"dev": set_loss(decoder, dev, 32, mesh), "test": set_loss(decoder, test, 32, mesh)}

    def evaluate(params: Any) -> dict[str, Any]:
        return {name: measure(params) for name, measure in measures.items()}

    return evaluate


def pretrain_flops(config: PretrainConfig, decoder: DecoderConfig, length: int) -> float:
    """FLOPs of one model's training, for rows of `length` tokens; without the measurements of its loss."""
    return 3 * forward_flops(decoder, config.steps * config.batch * (length - 1))


def training_rows(prepared: Prepared, documents: np.ndarray, seed: int) -> Rows:
    """Full rows of the documents in a random order; the last, shorter row is left out."""
    shuffled = stage_generator(seed, "pretrain", "packing").permutation(documents)
    rows = packed_rows(prepared, shuffled)
    full = rows.lengths == rows.tokens.shape[1]
    if not full.any():
        raise ValueError(
            f"the selection has {int(rows.lengths.sum())} tokens, less than one row of {rows.tokens.shape[1]}; "
            "raise --select.ratio or give a larger source"
        )
    return rows.take(full)


def load_curves(folder: Path, selections: dict[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, seed) -> steps, dev, test, train and the branch's ends, as `build_pretrain` wrote them."""
    return {(method, seed): read_arrays(folder / f"{method}-{seed}") for method, seed in selections}
