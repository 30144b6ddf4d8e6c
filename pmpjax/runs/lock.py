"""One process at a time in a run directory.

DIR/.lock       held by the operating system while a process works in DIR; ends with its process, however that ends
DIR/.lock.pid   which process that is, for the message to others; decides nothing
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

_LOCK, _HOLDER = ".lock", ".lock.pid"


class RunError(Exception):
    """Something about a run directory that its user can put right; the message says how."""


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Holds the directory for this process within the block; waits for nobody.

    Raises:
        RunError: another process holds it (names its pid), or the file system has no locks. A file that merely exists
            would not do instead: it outlives a killed process, and nobody could tell.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with lock(folder):
    ...     (folder / ".lock.pid").read_text() == str(os.getpid())
    True
    >>> (folder / ".lock.pid").exists()
    False
    """
    holder = directory / _HOLDER
    if FileLock is SoftFileLock:  # a Python without the system's locks
        raise _no_locks(directory, "this Python has none")
    held = FileLock(directory / _LOCK, timeout=0, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout as error:
        raise RunError(
            f"process {_pid(holder)} is working in {directory}; wait for it, stop it, or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise _no_locks(directory, str(error)) from error
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        held.release()


def _no_locks(directory: Path, found: str) -> RunError:
    return RunError(
        f"cannot lock {directory / _LOCK} ({found}): a run needs a file system with locks, so that no second process "
        "writes into it; choose a folder on a local disk and copy the result"
    )


def _pid(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:  # it has the lock and has not said so yet
        return "(unknown)"
