"""The optimizer of every training run of the pipelines: AdamW with a constant learning rate after a warm-up."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW at a constant rate: losses of two runs compare at equal steps, whatever their lengths.

    Attributes:
        learning_rate: after the warm-up.
        warmup_steps: the rate grows linearly from 0 over these.
        weight_decay: on matrices; scales and biases are not decayed.
        first_moment: decay rate beta_1 of Adam's first moment.
        second_moment: beta_2, of the second one.
        clip: the gradient's global norm is cut to this.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    first_moment: float = 0.9
    second_moment: float = 0.98
    clip: float = 1.0


def adamw(config: OptimizerConfig) -> optax.GradientTransformation:
    """clip, then AdamW with rate min(t / warmup_steps, 1) * learning_rate at step t.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0))
    >>> updates, _ = optimizer.update(jnp.array([3.0]), optimizer.init(jnp.array([1.0])), jnp.array([1.0]))
    >>> [round(float(u), 6) for u in updates]
    [-0.1]
    """
    rate = (
        optax.warmup_constant_schedule(0.0, config.learning_rate, config.warmup_steps)
        if config.warmup_steps
        else config.learning_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            rate,
            b1=config.first_moment,
            b2=config.second_moment,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params),
        ),
    )
