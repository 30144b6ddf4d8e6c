"""The optimizer of every training run: clipped AdamW, at a constant rate or a cosine after a warm-up."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. At a constant rate the losses of two runs compare at equal steps, whatever their lengths.

    Attributes:
        learning_rate: after the warm-up.
        warmup_steps: the rate grows linearly from 0 over these.
        weight_decay: on matrices; scales and biases are not decayed.
        first_moment: decay rate beta_1 of Adam's first moment.
        second_moment: beta_2, of the second one.
        clip: the gradient's global norm is cut to this.
        schedule: after the warm-up the rate stays, or decays along half a cosine until the last step.
        final_fraction: share of the learning rate that a cosine ends at.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    first_moment: float = 0.9
    second_moment: float = 0.98
    clip: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    final_fraction: float = 0.1

    def __post_init__(self):
        if self.learning_rate <= 0 or self.clip <= 0:
            raise ValueError(
                f"learning_rate and clip must be positive: found learning_rate {self.learning_rate}, clip {self.clip}"
            )
        if self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ValueError(
                f"warmup_steps must not be negative and final_fraction lie in [0, 1]: found warmup_steps "
                f"{self.warmup_steps}, final_fraction {self.final_fraction}"
            )


def rate_schedule(config: OptimizerConfig, steps: int | None = None) -> optax.Schedule:
    """rate(t) = learning_rate * min(t / warmup_steps, 1), and for a cosine times c(t) after the warm-up.

    c decays from 1 at the end of the warm-up to final_fraction at `steps`: f + (1 - f) (1 + cos(pi p)) / 2, where p is
    the share of those steps that is done.

    Args:
        steps: of the whole run; a cosine needs them, and more than the warm-up's.

    >>> rate = rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="cosine"), steps=6)
    >>> [round(float(rate(t)), 3) for t in range(7)]
    [0.0, 0.5, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if config.schedule == "constant":
        if not config.warmup_steps:
            return optax.constant_schedule(config.learning_rate)
        return optax.warmup_constant_schedule(0.0, config.learning_rate, config.warmup_steps)
    if steps is None or steps <= config.warmup_steps:
        raise ValueError(
            f"a cosine schedule needs more steps than its warm-up: steps {steps}, warmup_steps {config.warmup_steps}; "
            "lower warmup_steps or raise steps"
        )
    decaying = optax.cosine_decay_schedule(config.learning_rate, steps - config.warmup_steps, config.final_fraction)
    warming = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warming, decaying], [config.warmup_steps])


def adamw(config: OptimizerConfig, steps: int | None = None) -> optax.GradientTransformation:
    """clip, then AdamW with the rate `rate_schedule(config, steps)(t)` at step t.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0))
    >>> updates, _ = optimizer.update(jnp.array([3.0]), optimizer.init(jnp.array([1.0])), jnp.array([1.0]))
    >>> [round(float(u), 6) for u in updates]
    [-0.1]
    """
    return _adamw(config, rate_schedule(config, steps))


def decaying_adamw(config: OptimizerConfig, begin: int, end: int) -> optax.GradientTransformation:
    """`adamw` at a constant rate whose last steps decay: rate(t) = learning_rate min(1, (end - t) / (end - begin)).

    From a state of the constant run at `begin` this is the decay branch of warm-up-stable-decay: what a constant rate
    ends with moves about by as much as the rate, and the branch shows what is under it.

    Raises:
        ValueError: the config's schedule is not constant, or the branch begins in the warm-up or not before its end.

    Source: Hu et al., MiniCPM (arXiv 2404.06395), section 4; the linear decay of Haegele et al. (arXiv 2405.18392).

    >>> import jax.numpy as jnp
    >>> optimizer = decaying_adamw(OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0), 0, 2)
    >>> state, params = optimizer.init(jnp.array([1.0])), jnp.array([1.0])
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([3.0]), state, params)
    ...     print(round(float(updates[0]), 6))
    -0.1
    -0.05
    """
    if config.schedule != "constant" or not config.warmup_steps <= begin < end:
        raise ValueError(
            f"a decay branch leaves a run at a constant rate, after its warm-up: found schedule {config.schedule!r}, "
            f"warmup_steps {config.warmup_steps}, a branch from {begin} to {end}"
        )
    decaying = optax.linear_schedule(config.learning_rate, 0.0, end - begin)
    return _adamw(config, optax.join_schedules([rate_schedule(config), decaying], [begin]))


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            rate,
            b1=config.first_moment,
            b2=config.second_moment,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
        ),
    )


def _decays(path: tuple[Any, ...], leaf: Any) -> bool:
    # By name too: stacked by a scan over layers, the scale of a norm has two axes.
    name = str(getattr(path[-1], "key", "")) if path else ""
    return jnp.ndim(leaf) > 1 and name not in ("scale", "bias")
