"""The training loop of the whole library: any losses, any optax rule, one device or many, resumable bit for bit."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from pmpjax.runs import RunError
from pmpjax.runs.interrupt import check
from pmpjax.train.checkpoints import Checkpoints
from pmpjax.train.mesh import constrain, laid_out, place, place_batch
from pmpjax.train.record import DivergedError, Record, Report

Losses = Callable[[Any, Any], Array]
Evaluate = Callable[[Any], Mapping[str, Array]]

_AHEAD = 2  # calls that wait on the device while the host fetches the next batch: enough to keep it busy


@runtime_checkable
class MetricsSink(Protocol):
    """Where the loop writes numbers by step: `pmpjax.runs.metrics.Metrics`."""

    def resume(self, step: int) -> None:
        """Drops what was written at or beyond `step`."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers of a step."""
        ...


class Trained(NamedTuple):
    """What a training run leaves.

    Fields:
        params, opt_state: after the last step.
        losses: [steps] float32, the mean training loss of each step's batch, before its update.
        evaluated_at: [K] int64 steps, 0 and the last among them.
        evaluated: name -> [K] float32, what `evaluate` returned at those steps.
        status: "done", or at which step the loss was not finite.
        host_wait: share of the wall time in which the device stood still because the next batch was not there.
        resumed_at: the step whose checkpoint this process went on from; None where it began.
        damaged: one line for each checkpoint that could not be read, and was passed over.
    """

    params: Any
    opt_state: Any
    losses: np.ndarray
    evaluated_at: np.ndarray
    evaluated: dict[str, np.ndarray]
    status: str
    host_wait: float
    resumed_at: int | None
    damaged: tuple[str, ...]


def train(
    losses: Losses,
    optimizer: optax.GradientTransformation,
    params: Any,
    batches: Iterable[Any],
    steps: int,
    *,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    checkpoints: Path | None = None,
    save_every: int = 0,
    save_last: bool = False,
    keep: int = 2,
    identity: Mapping[str, Any] | None = None,
    metrics: MetricsSink | None = None,
    progress: Callable[[Report], None] | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    steps_per_call: int = 1,
    diverged: Literal["raise", "stop"] = "raise",
) -> Trained:
    """theta_{t+1} = optimizer(grad mean_b losses(theta_t, batch_t[b])) for t = 0 .. steps-1.

    One jitted function, whose state is donated, serves every run with equal `losses`, `optimizer` and shapes. While it
    runs the next batch is fetched and put on the devices; losses and evaluations stay there, read a few steps later.

    Args:
        losses: (params, batch) -> [B]; the same function object in each call that should share the compilation.
        batches: a Grain dataset or iterator of batches, pytrees of numpy arrays with a leading axis (where a mesh spans
            processes, each one's share: `pmpjax.train.mesh.data_share`). Its position is checkpointed.
        evaluate: params -> scalars by name; called at steps 0, `evaluate_every`, 2 `evaluate_every`, ... and the last.
        checkpoints: folder for Orbax checkpoints; a run that finds one there goes on from the newest, bit for bit.
        save_every: steps between checkpoints; 0 keeps none. A Ctrl-C noted by `pmpjax.runs.interrupt` saves one too.
        save_last: saves the last step too, for a call with more `steps` to go on from.
        keep: newest checkpoints that stay.
        identity: facts that a checkpoint must share with this run, JSON: the tokenizer's hash, say.
        metrics: gets loss and gradient norm of every step, evaluations, seconds a step and host_wait.
        progress: called with a `Report` twice a second or so, at checkpoints and at the end.
        mesh: of axes data, fsdp and tensor (`make_mesh`); None is the default device.
        accumulate: micro-batches that a step's gradient is the exact mean over; divides the batch.
        steps_per_call: steps that the device makes before it comes back to the host, fewer before an evaluation or the
            end: one call reserves its temporary memory once for all of them (15% of a step's CPU time at width 256, 6
            layers). Decides rounding, so that a resumed run must give the same.
        diverged: what a loss or gradient that is not finite does: an error, or an early end with its `status`.

    Raises:
        DivergedError: naming the step; it is seen a few steps after it happened and never saved.
        RunError: the checkpoints are of another run, or cannot be written.
        ValueError: the data end before the last step, or the batch does not divide.
    """
    if accumulate < 1 or steps_per_call < 1 or steps < 0:
        raise ValueError(
            f"accumulate and steps_per_call must be positive and steps not negative: found {accumulate}, "
            f"{steps_per_call} and {steps}"
        )
    saving = checkpoints is not None and save_every > 0
    every = evaluate_every or steps
    grid = np.unique(np.append(np.arange(0, steps, max(every, 1)), steps))
    advance = step_function(losses, optimizer, accumulate, mesh)
    measure = None if evaluate is None else _jitted(evaluate)
    iterator: Any = iter(batches)

    # Copies, because the step gives its arguments' memory away, and the caller keeps his parameters.
    params = place(params, mesh)
    opt_state = _initialise(optimizer, mesh)(params)
    names = sorted(jax.eval_shape(evaluate, params)) if evaluate is not None else []
    record = Record(names, grid, metrics, progress)

    with Checkpoints(checkpoints if saving else None, keep=keep, identity=identity) as saved:
        found = saved.restore({"params": params, "opt_state": opt_state})
        done = 0
        if found is not None:
            if found.step > steps:
                raise RunError(f"{checkpoints} has a checkpoint of step {found.step}, the run has {steps}; raise steps")
            done, params, opt_state = found.step, found.state["params"], found.state["opt_state"]
            iterator.set_state(found.position)
            record.restore(done, found.history)
            if saved.damaged and metrics is not None:
                metrics.write(done, {"damaged_checkpoints": len(saved.damaged)})
        elif metrics is not None:
            metrics.resume(0)
        kept = done
        # Where a call ends depends on the step alone, never on where a resumed run began: its bits would tell.
        stops = np.union1d(grid, np.arange(0, steps, steps_per_call))
        ends = _Ends(iterator, mesh, stops, saving)
        together = ends.fetch(done)
        in_flight: deque[Array] = deque()

        def save(report: bool = True) -> None:
            record.settle(done, report=report)
            saved.save(done, {"params": params, "opt_state": opt_state}, record.history(), ends.position)

        try:
            while True:
                if measure is not None and record.due(done):
                    record.evaluation(done, measure(params))
                if done == steps:
                    break
                if saving and done - kept >= save_every:
                    save()
                    kept = done
                try:
                    check()
                    record.settle(done - sum(map(len, in_flight)), force=False)
                except KeyboardInterrupt:
                    if saving and done > kept:
                        save(report=False)
                    raise
                params, opt_state, values = advance(params, opt_state, together)
                record.training(done, values)
                in_flight.append(values["loss"])
                done += len(together)
                begin = time.perf_counter()
                together = ends.fetch(done)
                if values["loss"].is_ready():  # pyright: ignore[reportAttributeAccessIssue]
                    record.waited(time.perf_counter() - begin)
                if len(in_flight) > _AHEAD:
                    # Without this the host would run ahead by any number of batches, all of them in memory.
                    in_flight.popleft().block_until_ready()
            record.settle(done)
            if saving and save_last and done > kept:
                save()
        except DivergedError:
            if diverged == "raise":
                raise
    return Trained(
        params,
        opt_state,
        record.losses(),
        record.evaluated_at(),
        record.evaluations(),
        record.status,
        record.host_wait,
        None if found is None else found.step,
        tuple(saved.damaged),
    )


class _Ends:
    """The two ends of the data: batches onto the devices, and the position from which the newest one was read."""

    def __init__(self, iterator: Any, mesh: Mesh | None, stops: np.ndarray, saving: bool) -> None:
        self._iterator, self._mesh, self._stops, self._saving = iterator, mesh, stops, saving
        self.position: Any = None
        if saving and not hasattr(iterator, "get_state"):
            raise ValueError(
                f"checkpoints need the position of the data, which {type(iterator).__name__} has not; give a Grain "
                "dataset or leave out checkpoints"
            )

    def fetch(self, step: int) -> tuple[Any, ...]:
        """The batches of the call that begins at `step`; none at the end."""
        if self._saving:
            self.position = self._iterator.get_state()
        following = self._stops[self._stops > step]
        count = int(following[0]) - step if len(following) else 0
        return tuple(self._next(step + offset) for offset in range(count))

    def _next(self, step: int) -> Any:
        try:
            return place_batch(next(self._iterator), self._mesh)
        except StopIteration as error:
            raise ValueError(
                f"the data end after {step} batches, the run has {self._stops[-1]} steps; repeat them or lower steps"
            ) from error


@functools.lru_cache(maxsize=8)
def step_function(
    losses: Losses, optimizer: optax.GradientTransformation, accumulate: int = 1, mesh: Mesh | None = None
) -> Callable[..., tuple[Any, Any, dict[str, Array]]]:
    """The jitted function of the loop: (params, opt_state, (batch, ...)) -> (params, opt_state, values of each step).

    One step for each batch given; parameters and state are donated. The same function for equal arguments.
    """

    def mean_loss(params: Any, batch: Any) -> Array:
        with laid_out(mesh):
            return jnp.mean(losses(params, batch))

    def mean_gradient(params: Any, batch: Any) -> tuple[Array, Any]:
        if accumulate == 1:
            return jax.value_and_grad(mean_loss)(params, batch)

        def add(total: Any, micro: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(mean_loss)(params, micro)), None

        micros = jax.tree.map(lambda leaf: _micro_batches(leaf, accumulate), batch)
        shape = jax.eval_shape(jax.value_and_grad(mean_loss), params, jax.tree.map(lambda leaf: leaf[0], micros))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        total, _ = jax.lax.scan(add, zeros, micros)
        return jax.tree.map(lambda leaf: leaf / accumulate, total)

    def step(state: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], dict[str, Array]]:
        params, opt_state = state
        value, gradient = mean_gradient(params, batch)
        gradient = constrain(gradient, mesh)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        values = {"loss": value.astype(jnp.float32), "gradient_norm": optax.tree.norm(gradient).astype(jnp.float32)}
        return (constrain(params, mesh), constrain(opt_state, mesh)), values

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def steps(params: Any, opt_state: Any, batches: tuple[Any, ...]) -> tuple[Any, Any, dict[str, Array]]:
        if len(batches) == 1:
            state, values = step((params, opt_state), batches[0])
            return *state, jax.tree.map(lambda leaf: leaf[None], values)
        state, values = jax.lax.scan(
            step, (params, opt_state), jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        )
        return *state, values

    return steps


def _micro_batches(leaf: Array, count: int) -> Array:
    """[B, ...] to [count, B / count, ...], of which each takes every `count`-th row: a part from every device."""
    if leaf.shape[0] % count:
        raise ValueError(f"a batch of {leaf.shape[0]} is not a multiple of accumulate, {count}; change one of the two")
    return leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:]).swapaxes(0, 1)


@functools.lru_cache(maxsize=8)
def _initialise(optimizer: optax.GradientTransformation, mesh: Mesh | None) -> Callable[[Any], Any]:
    # Jitted, so that no leaf of the optimizer's state shares memory with a parameter: both are given away.
    return jax.jit(lambda params: constrain(optimizer.init(params), mesh))


@functools.lru_cache(maxsize=8)
def _jitted(evaluate: Evaluate) -> Evaluate:
    return jax.jit(evaluate)
