"""A plain training loop over a fixed schedule of batches, resumable from any of its checkpoints."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from pmpjax.train.checkpoints import Checkpoints

Losses = Callable[[Any, Any], Array]
Evaluate = Callable[[Any], Mapping[str, Array]]


class Trained(NamedTuple):
    """What a training run leaves.

    Fields:
        params, opt_state: after the last step.
        losses: [steps] float32, the mean training loss of each step's batch, before its update.
        evaluated_at: [K] int64 steps, 0 and the last among them.
        evaluated: name -> [K] float32, what `evaluate` returned at those steps.
    """

    params: Any
    opt_state: Any
    losses: np.ndarray
    evaluated_at: np.ndarray
    evaluated: dict[str, np.ndarray]


def train(
    losses: Losses,
    optimizer: optax.GradientTransformation,
    params: Any,
    data: Any,
    schedule: np.ndarray,
    *,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    checkpoints: Path | None = None,
    save_every: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """theta_{t+1} = optimizer(grad mean_b losses(theta_t, data[schedule[t, b]])) for t = 0 .. steps-1.

    Steps between two evaluations run in one loop on the device; its bounds are arguments, so that one compilation
    serves the whole run, and another run with equal `losses`, `optimizer` and shapes.

    Args:
        losses: (params, batch) -> [B]; the same function object in each call that should share the compilation.
        data: pytree with a leading instance axis, kept on the device.
        schedule: [steps, batch] integers, the instances of each step (`pmpjax.data.batch_schedule`).
        evaluate: params -> scalars by name; called at steps 0, `evaluate_every`, 2 `evaluate_every`, ... and the last.
        checkpoints: folder for Orbax checkpoints; a run that finds one there goes on from the newest, bit for bit.
        save_every: steps between checkpoints (kept at evaluations, so at the first one at or after); 0 keeps none.
        progress: called with (steps done since the last call, mean loss over them).
    """
    steps = len(schedule)
    every = evaluate_every or steps
    grid = np.unique(np.append(np.arange(0, steps, max(every, 1)), steps))
    evaluate = evaluate or (lambda params: {})
    advance, evaluator = _advance(losses, optimizer), _jitted(evaluate)

    names = sorted(jax.eval_shape(evaluate, params))
    state = {
        "step": np.zeros((), np.int64),
        # Copies, because the loop gives its arguments' memory away, and the caller keeps his parameters.
        "params": jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params),
        "opt_state": optimizer.init(params),
        "losses": jnp.zeros(steps, jnp.float32),
    }
    if names:  # Orbax refuses empty arrays
        state["evaluated"] = np.zeros((len(names), len(grid)), np.float32)
    data, schedule_on_device = jax.tree.map(jnp.asarray, data), jnp.asarray(schedule, jnp.int32)

    with Checkpoints(checkpoints if save_every else None) as saved:
        found = saved.restore(state)
        state = state if found is None else found
        done = int(state["step"])
        last_save = done
        if progress is not None and done:
            progress(done, float(np.mean(np.asarray(state["losses"])[:done])))
        for column, stop in enumerate(grid):
            if stop < done or (stop == done and found is not None):
                continue
            params, opt_state, history = advance(
                state["params"], state["opt_state"], state["losses"], data, schedule_on_device, done, int(stop)
            )
            values = evaluator(params)
            if names:
                state["evaluated"][:, column] = [float(values[name]) for name in names]
            state |= {"step": np.asarray(stop, np.int64), "params": params, "opt_state": opt_state, "losses": history}
            if progress is not None and stop > done:
                progress(int(stop) - done, float(np.mean(np.asarray(history)[done:stop])))
            done = int(stop)
            if save_every and done - last_save >= save_every and done < steps:
                saved.save(done, state)
                last_save = done
    evaluated = {name: state["evaluated"][row].copy() for row, name in enumerate(names)}
    return Trained(state["params"], state["opt_state"], np.asarray(state["losses"]), grid, evaluated)


@functools.lru_cache(maxsize=8)
def _advance(losses: Losses, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any, Array]]:
    def mean_loss(params: Any, batch: Any) -> Array:
        return jnp.mean(losses(params, batch))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def advance(params, opt_state, history, data, schedule, start, stop):
        def step(t, carry):
            params, opt_state, history = carry
            batch = jax.tree.map(lambda leaf: leaf[schedule[t]], data)
            value, gradient = jax.value_and_grad(mean_loss)(params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, history.at[t].set(value.astype(history.dtype))

        return jax.lax.fori_loop(start, stop, step, (params, opt_state, history))

    return advance


@functools.lru_cache(maxsize=8)
def _jitted(evaluate: Evaluate) -> Evaluate:
    return jax.jit(evaluate)
