"""Ctrl-C at a safe moment.

An exception raised by a signal in the middle of tracing or compiling can crash the process in native code (seen: a
segmentation fault, jax 0.10.2). The command line therefore only notes the signal; `check`, which progress bars and
stages call between units of work, raises.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_requested: list[int] = []  # signals are the process's, hence so is this


def check() -> None:
    """Raises KeyboardInterrupt when a stop was asked for inside `deferred`; otherwise does nothing."""
    if _requested:
        raise KeyboardInterrupt


@contextmanager
def deferred(notify: Callable[[], None]) -> Iterator[list[int]]:
    """Within the block the first SIGINT or SIGTERM calls `notify` and waits for `check`; the second ends the process.

    Yields the list of signals received. What is on disk is whole whenever the process ends (`pmpjax.runs.files`).
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if _requested:
            os._exit(128 + number)
        _requested.append(number)
        notify()

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield _requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _requested.clear()
