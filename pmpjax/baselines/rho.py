"""RHO-Loss as a static score: how much of a document's loss goes away when the proxy has seen the target."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from pmpjax.baselines.instances import Scorer, check_positive, dev_rows, document_scores, row_values, source_rows
from pmpjax.data import Prepared, Rows, batch_schedule, scheduled_batches
from pmpjax.models import Decoder, example_losses
from pmpjax.train import OptimizerConfig, adamw, train, train_step

FINE_TUNING = OptimizerConfig(learning_rate=5e-4, warmup_steps=10)


def rho_loss(
    decoder: Decoder,
    proxy_params: Any,
    *,
    steps: int = 100,
    batch: int = 16,
    optimizer: OptimizerConfig = FINE_TUNING,
    chunk: int = 64,
) -> Scorer:
    """s_d = l_d(theta) - l_d(theta'), theta' = the proxy theta after `steps` steps of AdamW on the target's dev split.

    l_d is the loss of document d in nats per label, each row predicted from itself alone. The paper scores a batch's
    examples while it trains, with the current model as theta and a model of held-out data as theta' (the
    "irreducible" loss); here, as in PDS's comparison, the proxy stands for the first and its fine-tuned copy for the
    second, so that the whole corpus is scored once. The key decides the order of the fine-tuning data.

    Args:
        proxy_params: theta, as `decoder` takes it; kept.
        steps, batch: of the fine-tuning, on the rows of the dev split.
        optimizer: of the fine-tuning.
        chunk: rows of the source evaluated at once.

    Raises:
        ValueError: a setting is not positive; when called: the dev split has no label, a score is not finite.
        DivergedError: when called: the fine-tuning diverged.

    Source: RHO-Loss (arXiv 2206.07137), equation 3; as a static score in PDS (arXiv 2410.07064), section 3.1.
    """
    check_positive("rho_loss", steps=steps, batch=batch, chunk=chunk)
    losses = example_losses(decoder)
    step = train_step(losses, adamw(optimizer, steps))

    @jax.jit
    def reducible(params: tuple[Any, Any], rows: Rows) -> Array:
        return losses(params[0], rows) - losses(params[1], rows)

    def score(prepared: Prepared, key: Array) -> Array:
        target = dev_rows(prepared)
        order = batch_schedule(
            len(target.lengths), steps, batch, seed=int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
        )
        tuned = train(step, proxy_params, scheduled_batches(target, order), steps).params
        values = row_values(reducible, (proxy_params, tuned), source_rows(prepared), chunk)
        return document_scores(prepared, values, "rho_loss", "lower the fine-tuning's learning rate")

    return score


def rho_flops(forward: Callable[[int], float | int], *, rows: int, steps: int, batch: int) -> float | int:
    """The gradients of the fine-tuning, and two forward passes over the source.

    `forward(rows)`: FLOPs of a forward pass over so many rows; a gradient costs it 3 times.

    >>> rho_flops(lambda rows: rows, rows=1000, steps=10, batch=8)
    2240
    """
    return 3 * forward(steps * batch) + 2 * forward(rows)
