"""The stage `proxy`: a warm proxy language model, theta_0, around which the costate is taken."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax

from pmpjax.data import Prepared, batch_schedule, packed_rows, scheduled_batches
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.runs import write_json
from pmpjax.runs.pipeline import Context
from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed
from pmpjax.train import (
    OptimizerConfig,
    Saving,
    adamw,
    load_params,
    load_state,
    save_params,
    save_state,
    train,
    train_step,
)
from pmpjax.train.model import ModelConfig, forward_flops
from pmpjax.train.warm_start import WarmStart, warm_start


@dataclasses.dataclass(frozen=True)
class ProxyConfig:
    """How the proxy is trained.

    Attributes:
        steps: training steps, on a random part of the source as large as they take.
        batch: rows of a step.
        optimizer: AdamW.
        save_every: steps between checkpoints.
        steps_per_call: steps that the device makes before the host is asked again.
        model: the decoder of the costate sweep; None is the one that is pretrained at the end.
    """

    steps: int = 160
    batch: int = 16
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(warmup_steps=20))
    save_every: int = 40
    steps_per_call: int = 10
    model: ModelConfig | None = None


def build_proxy(config: ProxyConfig, model: ModelConfig, at: Context[Prepared]) -> None:
    """Fills the folder with params.npz (theta_0), moments.npz (the optimizer's state there) and proxy.json; goes on
    from the checkpoints that it finds there."""
    prepared, decoder_config = at.data, model.decoder(at.data.vocabulary)
    decoder = Decoder(decoder_config)
    documents = stage_generator(at.seed, "proxy", "documents").permutation(len(prepared.documents.ids))
    wanted = config.steps * config.batch * prepared.source.tokens.shape[1]
    taken = int(prepared.documents.n_tokens[documents].cumsum().searchsorted(wanted)) + 1
    rows = packed_rows(prepared, documents[:taken])
    order = stage_seed(at.seed, "proxy", "order")
    trained = train(
        train_step(
            example_losses(decoder),
            adamw(config.optimizer, config.steps),
            mesh=at.mesh,
            steps_per_call=config.steps_per_call,
        ),
        initialise(decoder, stage_key(at.seed, "proxy", "init"), rows.tokens[:1]),
        scheduled_batches(rows, batch_schedule(len(rows.tokens), config.steps, config.batch, seed=order)),
        config.steps,
        saving=Saving(at.folder / "checkpoints", config.save_every),
        progress=lambda report: at.bar.update(report.steps, loss=report.loss),
    )
    save_params(at.folder / "params", trained.params)
    save_state(at.folder / "moments", trained.opt_state)
    facts: dict[str, Any] = {
        "documents": taken,
        "rows": len(rows.tokens),
        "first_loss": float(trained.losses[0]),
        "final_loss": float(trained.losses[-10:].mean()),
        "flops": proxy_flops(config, decoder_config, rows.tokens.shape[1]),
    }
    write_json(at.folder / "proxy.json", facts)
    shutil.rmtree(at.folder / "checkpoints", ignore_errors=True)


def proxy_flops(config: ProxyConfig, decoder: DecoderConfig, length: int) -> float:
    """FLOPs of the stage, for rows of `length` tokens: a gradient is three forward passes."""
    return 3 * forward_flops(decoder, config.steps * config.batch * (length - 1))


def load_proxy(config: ProxyConfig, folder: Path) -> WarmStart:
    """theta_0 as `Decoder` takes it, the optimizer's state there, and the rule with the rate of the last step."""
    params = load_params(folder / "params")
    like = jax.eval_shape(adamw(config.optimizer, config.steps).init, params)
    return warm_start(params, load_state(folder / "moments", like), config.optimizer, config.steps)
