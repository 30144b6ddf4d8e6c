"""The training loop of the whole library: any losses, any optax rule, one device or many, resumable bit for bit."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from pmpjax.runs import RunError
from pmpjax.runs.interrupt import check
from pmpjax.train.checkpoints import Checkpoints
from pmpjax.train.mesh import place_batch
from pmpjax.train.record import Record, Report
from pmpjax.train.step import TrainStep

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
        host_wait: share of the wall time in which the device stood still because the next batch was not there.
        resumed_at: the step whose checkpoint this process went on from; None where it began.
        damaged: one line for each checkpoint that could not be read, and was passed over.
    """

    params: Any
    opt_state: Any
    losses: np.ndarray
    evaluated_at: np.ndarray
    evaluated: dict[str, np.ndarray]
    host_wait: float
    resumed_at: int | None
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Saving:
    """Where and how often a run keeps its state.

    Attributes:
        folder: of Orbax checkpoints; a run that finds one there goes on from the newest, bit for bit.
        every: steps between checkpoints; 0 keeps none on the way. A Ctrl-C noted by `pmpjax.runs.interrupt` saves one
            too.
        last: saves the last step too, for a call with more steps to go on from.
        keep: newest checkpoints that stay.
        identity: facts that a checkpoint must share with this run, JSON: the tokenizer's hash, say.
    """

    folder: Path
    every: int = 0
    last: bool = False
    keep: int = 2
    identity: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What is measured while a run goes on.

    Attributes:
        evaluate: params -> scalars by name.
        every: it is called at steps 0, `every`, 2 `every`, ... and the last; 0 at these two alone.
    """

    evaluate: Evaluate
    every: int = 0


def train(
    step: TrainStep,
    params: Any,
    batches: Iterable[Any],
    steps: int,
    *,
    saving: Saving | None = None,
    evaluation: Evaluation | None = None,
    metrics: MetricsSink | None = None,
    progress: Callable[[Report], None] | None = None,
) -> Trained:
    """theta_{t+1} = step(theta_t, batch_t) for t = 0 .. steps-1.

    While the step runs, its state donated, the next batch is fetched and put on the devices; losses and evaluations
    stay there, read a few steps later.

    Args:
        step: `train_step(losses, optimizer)`.
        batches: a Grain dataset or iterator of batches, pytrees of numpy arrays with a leading axis (where a mesh spans
            processes, each one's share: `pmpjax.train.mesh.data_share`). Its position is checkpointed.
        metrics: gets loss and gradient norm of every step, evaluations, seconds a step and host_wait.
        progress: called with a `Report` twice a second or so, at checkpoints and at the end.

    Raises:
        DivergedError: a loss or gradient is not finite; names the step. It is seen a few steps after it happened, and
            never saved.
        RunError: the checkpoints are of another run, or cannot be written.
        ValueError: the data end before the last step, or the batch does not divide.

    >>> import optax
    >>> from pmpjax.train import train_step
    >>> def losses(params, batch): return (params["w"] - batch) ** 2
    >>> batches = [np.ones(2, np.float32)] * 5
    >>> trained = train(train_step(losses, optax.sgd(0.25)), {"w": np.float32(0)}, batches, 5)
    >>> [round(float(loss), 4) for loss in trained.losses]
    [1.0, 0.25, 0.0625, 0.0156, 0.0039]
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must not be negative")
    every = (evaluation.every if evaluation else 0) or steps
    grid = np.unique(np.append(np.arange(0, steps, max(every, 1)), steps))
    iterator: Any = iter(batches)
    params, opt_state = step.init(params)
    measure = None if evaluation is None else _jitted(evaluation.evaluate)
    names = [] if measure is None else sorted(jax.eval_shape(measure, params))
    record = Record(names, grid, metrics, progress)

    if saving is not None and not (saving.every or saving.last):
        saving = None
    with _checkpoints(saving) as saved:
        found = saved.restore({"params": params, "opt_state": opt_state})
        done = 0
        if found is not None:
            if found.step > steps:
                where = "" if saving is None else saving.folder
                raise RunError(f"{where} has a checkpoint of step {found.step}, the run has {steps}; raise steps")
            done, params, opt_state = found.step, found.state["params"], found.state["opt_state"]
            iterator.set_state(found.position)
            record.restore(done, found.history)
            if saved.damaged and metrics is not None:
                metrics.write(done, {"damaged_checkpoints": len(saved.damaged)})
        elif metrics is not None:
            metrics.resume(0)
        kept = done
        # Where a call ends depends on the step alone, never on where a resumed run began: its bits would tell.
        stops = np.union1d(grid, np.arange(0, steps, step.steps_per_call))
        ends = _Ends(iterator, step.mesh, stops, saving is not None)
        together = ends.fetch(done)
        in_flight: deque[Array] = deque()

        def save(report: bool = True) -> None:
            record.settle(done, report=report)
            saved.save(done, {"params": params, "opt_state": opt_state}, record.history(), ends.position)

        while True:
            if measure is not None and record.due(done):
                record.evaluation(done, measure(params))
            if done == steps:
                break
            if saving is not None and saving.every and done - kept >= saving.every:
                save()
                kept = done
            try:
                check()
                record.settle(done - sum(map(len, in_flight)), force=False)
            except KeyboardInterrupt:
                if saving is not None and done > kept:
                    save(report=False)
                raise
            params, opt_state, values = step.advance(params, opt_state, together)
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
        if saving is not None and saving.last and done > kept:
            save()
    return Trained(
        params,
        opt_state,
        record.losses(),
        grid,
        record.evaluations(),
        record.host_wait,
        None if found is None else found.step,
        tuple(saved.damaged),
    )


def _checkpoints(saving: Saving | None) -> Checkpoints:
    if saving is None:
        return Checkpoints(None)
    return Checkpoints(saving.folder, keep=saving.keep, identity=saving.identity)


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
def _jitted(evaluate: Evaluate) -> Evaluate:
    return jax.jit(evaluate)
