"""The stage `pretrain`: the same decoder on each selection, with equal budgets."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from pmpjax.data import Prepared, Rows, batch_schedule, packed_rows, scheduled_batches
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.runs import read_arrays, write_json
from pmpjax.runs.pipeline import Context
from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed
from pmpjax.train import Evaluation, OptimizerConfig, Report, Saving, Trained, train, train_step
from pmpjax.train.branch import Measure, TrainTo, decay_branch, train_with_branch
from pmpjax.train.heldout import set_loss, spread_rows
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The budget of each run.

    Attributes:
        steps: training steps of each run.
        batch: rows of the selection in a step.
        optimizer: AdamW; at a constant rate after the warm-up, its default, losses at equal steps compare.
        decay: share of the steps that are made a second time, on the same batches, with a rate that decays to zero: the
            branch ends with the model that one would keep, without the noise of a constant rate. It leaves the run at
            a measurement. 0 makes none, nor does a rate that decays anyway or is still in its warm-up there.
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
    selections: dict[tuple[str, int], np.ndarray],
    at: Context[Prepared],
) -> None:
    """Trains one model for each (method, seed) of `selections`.

    A seed gives the initial parameters and the order of the data, the same for every method; each method's documents
    are packed into rows, of which all methods of a seed use equally many. The test split is measured with the dev
    split and decides nothing here.

    Files:
        METHOD-SEED.npz, METHOD-SEED-params.npz: `pmpjax.train.branch.train_with_branch`, with the losses dev and test
            in nats per token; those of the decay branch on `final_rows` rows.
        pretrain.json: of each seed the rows of a pass and the passes that its steps make; steps of the branch, tokens
            and FLOPs.
    A killed run goes on from the newest checkpoint of the run that was under way.
    """
    prepared, decoder_config = at.data, model.decoder(at.data.vocabulary)
    decoder = Decoder(decoder_config)
    begin, measure = trainer(config, decoder, at), final_losses(config, decoder, at)
    branch = decay_branch(config.optimizer, config.steps, config.decay_steps)
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
            if (at.folder / f"{name}.npz").exists():
                at.bar.update(config.all_steps)
                continue
            train_to = begin(Rows(rows.tokens[:count], rows.lengths[:count]), schedule, seed)
            train_with_branch(branch, train_to, measure, at, name)
    length = prepared.source.tokens.shape[1] - 1
    measured = len(np.unique(np.append(np.arange(0, config.steps, config.evaluate_every), config.steps)))
    shown = min(config.dev_rows, len(prepared.dev.tokens)) + min(config.test_rows, len(prepared.test.tokens))
    at_end = sum(min(config.final_rows, len(rows)) for rows in (prepared.dev.tokens, prepared.test.tokens))
    seen = measured * shown + (at_end if config.decay_steps else 0)
    measuring = forward_flops(decoder_config, seen * length)
    share = config.all_steps / config.steps
    write_json(
        at.folder / "pretrain.json",
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
    config: PretrainConfig, decoder: Decoder, at: Context[Prepared]
) -> Callable[[Rows, np.ndarray, int], TrainTo]:
    """(rows, schedule, seed) -> a run on these batches, up to a step; the seed gives the initial parameters.

    All runs of one trainer share their compilation."""
    losses = example_losses(decoder)
    evaluation = Evaluation(target_losses(decoder, at, config.dev_rows, config.test_rows), config.evaluate_every)

    def begin(rows: Rows, schedule: np.ndarray, seed: int) -> TrainTo:
        def train_to(
            steps: int, optimizer: optax.GradientTransformation, checkpoints: Path, report: Callable[[Report], None]
        ) -> Trained:
            return train(
                train_step(losses, optimizer, mesh=at.mesh, steps_per_call=config.steps_per_call),
                initialise(decoder, stage_key(seed, "pretrain", "init"), rows.tokens[:1]),
                scheduled_batches(rows, schedule),
                steps,
                saving=Saving(checkpoints, config.save_every, last=True),
                evaluation=evaluation,
                progress=report,
            )

        return train_to

    return begin


def final_losses(config: PretrainConfig, decoder: Decoder, at: Context[Prepared]) -> Measure:
    """`target_losses` on `config.final_rows` rows of each split, compiled."""
    return jax.jit(target_losses(decoder, at, config.final_rows, config.final_rows))


def target_losses(decoder: Decoder, at: Context[Prepared], dev_rows: int, test_rows: int) -> Measure:
    """params -> mean loss in nats per token on `dev` and `test`, of so many rows of each split, evenly spread."""
    dev, test = spread_rows(at.data.dev, dev_rows), spread_rows(at.data.test, test_rows)
    measures = {"dev": set_loss(decoder, dev, 32, at.mesh), "test": set_loss(decoder, test, 32, at.mesh)}

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


def load_curves(folder: Path, runs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, seed) -> steps, dev, test, train and the branch's ends, as `build_pretrain` wrote them."""
    return {(method, seed): read_arrays(folder / f"{method}-{seed}") for method, seed in runs}
