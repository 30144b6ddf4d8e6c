"""Numbers by step, as JSON lines and as TensorBoard events, which a resumed run continues without a gap or a double."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pmpjax.runs.files import plain, write_text
from pmpjax.runs.lock import RunError

Derive = Callable[[int, Mapping[str, float]], Mapping[str, float]]


class Metrics:
    """FOLDER/metrics.jsonl, one object a line: step, time (seconds since 1970), numbers; FOLDER/events, the same.

    The lines are the truth: a half-written last one is dropped, and the event files, which cannot be cut, are written
    again from the lines whenever a run begins or resumes. A number that is not finite is null. A context manager.

    Args:
        folder: made where it is missing.
        derive: (step, numbers) -> further numbers for the same line (a learning rate, tokens a second).

    Raises:
        RunError: a line other than the last is not JSON; names file and line.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Metrics(folder) as metrics:
    ...     for step in range(3):
    ...         metrics.write(step, {"loss": 1.0 / (step + 1)})
    ...     metrics.resume(1)
    >>> [line["loss"] for line in read_metrics(folder)]
    [1.0]
    """

    def __init__(self, folder: Path | str, derive: Derive | None = None) -> None:
        self._folder = Path(folder)
        self._derive = derive
        self._path = self._folder / "metrics.jsonl"
        self._file: Any = None
        self._events: Any = None

    def resume(self, step: int) -> None:
        """Cuts every line at or beyond `step`, and writes the event files again from what stays."""
        self._open(step)

    def _open(self, step: int) -> Any:
        from tensorboardX import SummaryWriter  # a second of imports, only for those who write metrics

        self._close()
        lines = [line for line in read_metrics(self._folder) if line["step"] < step]
        write_text(self._path, "".join(_line(line) for line in lines))
        self._file = open(self._path, "a", encoding="utf-8", buffering=1)
        events = self._folder / "events"
        for old in events.glob("events.out.tfevents.*"):
            old.unlink()
        self._events = SummaryWriter(str(events), flush_secs=30)
        for line in lines:
            self._show(line)
        return self._file

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line; where `resume` was not called, everything that is there stays."""
        file = self._file or self._open(2**63)
        values = {**values, **(self._derive(step, values) if self._derive else {})}
        line = plain({"step": step, "time": round(time.time(), 3), **values})
        file.write(_line(line))
        self._show(line)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _show(self, line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("step", "time") and value is not None:
                self._events.add_scalar(name, value, line["step"], walltime=line["time"])

    def _close(self) -> None:
        for opened in (self._file, self._events):
            if opened is not None:
                opened.close()
        self._file = self._events = None


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of FOLDER/metrics.jsonl, none where it is missing; a last line that a kill cut off is left out."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    *texts, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            line["step"], line["time"] = int(line["step"]), float(line["time"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}:{number} is not a line of metrics ({error}); delete that line") from error
        lines.append(line)
    return lines


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"
