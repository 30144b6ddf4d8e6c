"""A progress bar on stderr that leaves no trace, and one line a stage where stderr is not a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pmpjax.runs.interrupt import check


@runtime_checkable
class Bar(Protocol):
    """What a stage is handed: numerics call `update`, and never print themselves."""

    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        """Moves on by `advance` units and shows `fields`; raises KeyboardInterrupt where Ctrl-C is waiting."""
        ...


class _Silent:
    def __init__(self) -> None:
        self.done = 0.0
        self.fields: dict[str, float | int | str] = {}

    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        check()
        self.done += advance
        self.fields |= fields


class _Rich(_Silent):
    def __init__(self, bar: Progress, task) -> None:
        super().__init__()
        self._bar, self._task = bar, task

    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        super().update(advance, **fields)
        self._bar.update(self._task, advance=advance, shown=_show(self.fields))


@contextmanager
def progress(name: str, total: float | int | None = None) -> Iterator[Bar]:
    """`with progress("solve", total=100) as bar: bar.update(1, loss=0.12)`.

    On a terminal: a bar with the time left and the fields, gone when the block ends, and a line that stays. Elsewhere
    (a file, a pipe, CI): only that line, when the block ends well.
    """
    begin = time.perf_counter()
    if sys.stderr.isatty():
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[shown]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
            bar: _Silent = _Rich(drawn, drawn.add_task(name, total=total, shown=""))
            yield bar
    else:
        bar = _Silent()
        yield bar
    count = f"{bar.done:g}" + (f"/{total:g}" if total else "")
    print(f"{name}: {count} in {time.perf_counter() - begin:.1f} s  {_show(bar.fields)}".rstrip(), file=sys.stderr)


def within(bar: Bar) -> Callable[..., AbstractContextManager[Bar]]:
    """`progress` for a stage inside another one: its fields are shown in `bar`, which it does not move on."""

    @contextmanager
    def shown(name: str, total: float | int | None = None) -> Iterator[Bar]:
        yield _Within(bar)

    return shown


class _Within:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        self._bar.update(0, **fields)


def note(name: str, text: str) -> None:
    """A line on stderr in place of a bar, where a stage has nothing to do."""
    print(f"{name}: {text}", file=sys.stderr)


def _show(fields: dict[str, float | int | str]) -> str:
    return "  ".join(
        f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in fields.items()
    )
