"""The stage `pretrain`: the same decoder on each selection, with equal budgets."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pmpjax.data import Prepared, batch_schedule, packed_rows, scheduled_batches
from pmpjax.models import Decoder, DecoderConfig, Rows, example_losses, initialise
from pmpjax.pds.common import stage_generator, stage_key, stage_seed
from pmpjax.runs import read_arrays, write_arrays, write_json
from pmpjax.runs.progress import Bar
from pmpjax.train import OptimizerConfig, Report, adamw, save_params, train
from pmpjax.train.heldout import set_loss, spread_rows
from pmpjax.train.model import ModelConfig, forward_flops


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The budget of each run.

    Attributes:
        steps: training steps of each run.
        batch: rows of the selection in a step.
        optimizer: AdamW; at a constant rate after the warm-up, its default, losses at equal steps compare.
        evaluate_every: steps between measurements of the loss on the target.
        dev_rows: rows of the target's dev split measured each time, spread evenly over its documents.
        test_rows: the same of its test split.
        save_every: steps between checkpoints.
        steps_per_call: steps that the device makes before the host is asked again; dividing `evaluate_every` it costs
            one compilation.
    """

    steps: int = 600
    batch: int = 16
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    evaluate_every: int = 30
    dev_rows: int = 96
    test_rows: int = 192
    save_every: int = 150
    steps_per_call: int = 6


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
        METHOD-SEED.npz: steps, dev, test (nats a token at those steps), train (loss of each step).
        METHOD-SEED-params.npz: the final parameters.
        pretrain.json: rows, tokens and FLOPs.
    A killed run goes on from the newest checkpoint of the run that was under way.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    decoder = Decoder(decoder_config)
    losses, optimizer = example_losses(decoder), adamw(config.optimizer, config.steps)
    evaluate = target_losses(config, decoder, prepared, mesh)
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
                bar.update(config.steps)
                continue
            trained = train(
                losses,
                optimizer,
                initialise(decoder, stage_key(seed, "pretrain", "init"), rows.tokens[:1]),
                scheduled_batches(Rows(rows.tokens[:count], rows.lengths[:count]), schedule),
                config.steps,
                evaluate=evaluate,
                evaluate_every=config.evaluate_every,
                checkpoints=folder / f"{name}-checkpoints",
                save_every=config.save_every,
                steps_per_call=config.steps_per_call,
                progress=_report(bar, name),
                mesh=mesh,
            )
            save_params(folder / f"{name}-params", trained.params)
            curves = {"steps": trained.evaluated_at, "train": trained.losses, **trained.evaluated}
            write_arrays(folder / f"{name}.npz", curves)  # last: its presence means that the run is whole
            shutil.rmtree(folder / f"{name}-checkpoints", ignore_errors=True)
    length = prepared.source_rows.shape[1] - 1
    measured = len(np.unique(np.append(np.arange(0, config.steps, config.evaluate_every), config.steps)))
    shown = min(config.dev_rows, len(prepared.dev_rows)) + min(config.test_rows, len(prepared.test_rows))
    measuring = forward_flops(decoder_config, measured * shown * length)
    write_json(
        folder / "pretrain.json",
        {
            "rows": rows_of,
            "tokens_seen": config.steps * config.batch * length,
            "runs": [{"method": method, "seed": seed} for method, seed in selections],
            "flops": len(selections) * (pretrain_flops(config, decoder_config, length + 1) + measuring),
        },
    )


def target_losses(
    config: PretrainConfig, decoder: Decoder, prepared: Prepared, mesh: Mesh | None = None
) -> Callable[[Any], dict[str, Any]]:
    """params -> mean loss in nats a token on `dev` and `test`, of the rows that `config` takes of each split."""
    dev = spread_rows(Rows(prepared.dev_rows, prepared.dev_lengths), config.dev_rows)
    test = spread_rows(Rows(prepared.test_rows, prepared.test_lengths), config.test_rows)
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
    tokens, lengths = packed_rows(prepared, shuffled)
    full = lengths == tokens.shape[1]
    if not full.any():
        raise ValueError(
            f"the selection has {int(lengths.sum())} tokens, less than one row of {tokens.shape[1]}; "
            "raise --select.ratio or give a larger source"
        )
    return Rows(tokens[full], lengths[full])


def _report(bar: Bar, name: str) -> Callable[[Report], None]:
    return lambda report: bar.update(report.steps, run=name, loss=report.loss)


def load_curves(folder: Path, selections: dict[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, seed) -> steps, dev, test, train, as `build_pretrain` wrote them."""
    return {(method, seed): read_arrays(folder / f"{method}-{seed}") for method, seed in selections}
