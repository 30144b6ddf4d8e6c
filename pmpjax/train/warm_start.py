"""A trained model from which training, or a sweep, goes on."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from pmpjax.train.optimizers import OptimizerConfig, rate_schedule


class WarmStart(NamedTuple):
    """A trained model from which a sweep, or more training, goes on.

    params: theta_0. opt_state: of `adamw(optimizer)` at theta_0. optimizer: the rule that trained it, from now on at
    the rate of its last step.
    """

    params: Any
    opt_state: Any
    optimizer: OptimizerConfig


def warm_start(
    params: Any, opt_state: Any, optimizer: OptimizerConfig, done: int, steps: int | None = None
) -> WarmStart:
    """What `done` steps of a run left, whose schedule was made for `steps` (by default those that are done).

    >>> found = warm_start({}, None, OptimizerConfig(learning_rate=0.1, schedule="cosine", warmup_steps=2), done=10)
    >>> round(found.optimizer.learning_rate, 6), found.optimizer.schedule, found.optimizer.warmup_steps
    (0.01, 'constant', 0)
    """
    rate = np.asarray(rate_schedule(optimizer, done if steps is None else steps)(done)).item()
    held = dataclasses.replace(optimizer, learning_rate=rate, schedule="constant", warmup_steps=0)
    return WarmStart(params, opt_state, held)
