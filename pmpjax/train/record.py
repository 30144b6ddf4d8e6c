"""What a training run reports: losses and evaluations, read from the device a few steps late."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pmpjax.runs import RunError

_REPORT_SECONDS = 0.5
_REPORT_STEPS = 10


class DivergedError(RunError):
    """A loss or gradient that is not finite."""


class Report(NamedTuple):
    """Progress of a run since the last report.

    Fields:
        step: updates done.
        steps: of these, since the last report (those before a resumed checkpoint, in the first one).
        loss: mean over them.
        seconds: wall time they took; None where it was not measured (before a resumed checkpoint, while compiling).
        host_wait: share of it in which the device waited for a batch; None with it.
    """

    step: int
    steps: int
    loss: float
    seconds: float | None
    host_wait: float | None


class Record:
    """The history of a run on the host, and the numbers of the newest steps still on the device.

    Args:
        names: of what is evaluated.
        grid: [K] steps at which it is.
        metrics: gets every number once (see `pmpjax.train.train`).
        progress: gets a `Report` at each settling.
    """

    def __init__(
        self, names: list[str], grid: np.ndarray, metrics: Any, progress: Callable[[Report], None] | None
    ) -> None:
        self._names, self._grid, self._metrics, self._progress = names, grid, metrics, progress
        self._pending: deque[tuple[str, int, Mapping[str, Any]]] = deque()
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._evaluated: list[list[float]] = []
        self._asked = 0  # evaluations, those on the device among them
        self._reported = 0
        self._clock: float | None = None
        self._idle = 0.0
        self._seconds, self._idle_in_all = 0.0, 0.0
        self._failure: str | None = None

    def restore(self, done: int, history: Mapping[str, Any]) -> None:
        """Takes up the history of a checkpoint: cuts the metrics there and reports its steps."""
        self._losses, self._norms = history["losses"].tolist(), history["gradient_norms"].tolist()
        at = history["evaluated_at"].tolist() if self._names else []
        if at != self._grid[: len(at)].tolist():
            raise RunError(
                f"the checkpoint has evaluations at steps {at}, this run at {self._grid.tolist()}; give the "
                "evaluate_every it was made with, or another folder"
            )
        self._evaluated = history["evaluated"].tolist() if self._names else []
        self._asked = len(self._evaluated)
        if self._metrics is not None:
            self._metrics.resume(done)
            if at and at[-1] == done:
                self._metrics.write(done, dict(zip(self._names, self._evaluated[-1], strict=True)))
        if self._progress is not None and done:
            self._progress(Report(done, done, float(np.mean(self._losses)), None, None))
        self._reported = done

    def due(self, step: int) -> bool:
        """Whether an evaluation at this step is wanted and was not made yet."""
        return bool(self._names) and self._asked < len(self._grid) and int(self._grid[self._asked]) == step

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Notes an evaluation, on the device."""
        self._asked += 1
        self._pending.append(("evaluation", step, values))

    def training(self, step: int, values: Mapping[str, Any]) -> None:
        """Notes loss and gradient norm of the steps of one call from `step` on, [K] each, on the device."""
        self._pending.append(("training", step, values))
        if self._clock is None:  # the first step's call compiled it: that time belongs to no rate
            self._clock = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Notes that the device stood still, at most for so long, while a batch was fetched."""
        self._idle += seconds

    def settle(self, stop: int, *, force: bool = True, report: bool = True) -> None:
        """Reads all numbers of steps before `stop` and reports them; without `force` only when it is time.

        Without `report` the progress is not told: its bar raises again where a Ctrl-C is being obeyed.

        Raises:
            DivergedError: one of them is not finite.
        """
        if not force and not self._is_time(stop):
            return
        count = 0
        while count < len(self._pending) and (self._pending[count][1] < stop or force):
            count += 1
        taken = [self._pending.popleft() for _ in range(count)]
        host = jax.device_get([values for _, _, values in taken])
        entries = [
            (kind, step + offset, {name: np.atleast_1d(value)[offset] for name, value in values.items()})
            for (kind, step, _), values in zip(taken, host, strict=True)
            for offset in range(np.size(values["loss"]) if kind == "training" else 1)
        ]
        before = len(self._losses)
        for kind, step, values in entries:
            self._keep(kind, step, {name: float(value) for name, value in values.items()})
        rates = self._rates(len(self._losses) - before)
        self._write(entries, rates)
        if self._failure is not None:
            raise DivergedError(
                f"the {self._failure}; lower the learning rate, or warm it up longer. Nothing after that step was saved"
            )
        if report and self._progress is not None and len(self._losses) > self._reported:
            new = self._losses[self._reported :]
            self._reported = len(self._losses)
            self._progress(Report(len(self._losses), len(new), float(np.mean(new)), *(rates or (None, None))))

    def _is_time(self, stop: int) -> bool:
        if jax.process_count() > 1:  # clocks differ, and all processes must read and fail together
            return stop > 0 and stop % _REPORT_STEPS == 0
        return self._clock is not None and time.perf_counter() - self._clock > _REPORT_SECONDS

    def _keep(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if self._failure is not None:
            return
        if kind == "evaluation":
            self._evaluated.append([values[name] for name in self._names])
            return
        self._losses.append(values["loss"])
        self._norms.append(values["gradient_norm"])
        if not math.isfinite(values["loss"]):
            self._failure = f"loss is {values['loss']} at step {step}"
        elif not math.isfinite(values["gradient_norm"]):
            self._failure = f"gradient's norm is {values['gradient_norm']} at step {step}"

    def _rates(self, steps: int) -> tuple[float, float] | None:
        """(seconds, share of them that the device waited) since the last settling that read a step."""
        if self._clock is None or not steps:
            return None
        now = time.perf_counter()
        seconds, idle = now - self._clock, self._idle
        self._clock, self._idle = now, 0.0
        self._seconds += seconds
        self._idle_in_all += idle
        return (seconds, min(1.0, idle / seconds)) if seconds else None

    def _write(self, entries: Sequence[tuple[str, int, Mapping[str, Any]]], rates: tuple[float, float] | None) -> None:
        if self._metrics is None:
            return
        trained = [step for kind, step, _ in entries if kind == "training"]
        for kind, step, values in entries:
            numbers = {name: float(value) for name, value in values.items()}
            if kind == "training" and step == trained[-1] and rates:
                numbers |= {"seconds_per_step": rates[0] / len(trained), "host_wait": rates[1]}
            self._metrics.write(step, numbers)

    def history(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of the steps settled so far."""
        history = {"losses": self.losses(), "gradient_norms": np.asarray(self._norms, np.float32)}
        if self._evaluated:  # Orbax refuses empty arrays
            history |= {
                "evaluated_at": self._grid[: len(self._evaluated)],
                "evaluated": np.asarray(self._evaluated, np.float32),
            }
        return history

    def losses(self) -> np.ndarray:
        """[steps settled] float32."""
        return np.asarray(self._losses, np.float32)

    def evaluations(self) -> dict[str, np.ndarray]:
        """name -> [K] float32."""
        return {
            name: np.asarray([row[column] for row in self._evaluated], np.float32)
            for column, name in enumerate(self._names)
        }

    @property
    def host_wait(self) -> float:
        """Share of the wall time in which the device waited for a batch."""
        return self._idle_in_all / self._seconds if self._seconds else 0.0
