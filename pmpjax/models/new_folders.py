"""A folder that is whole or not there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pmpjax.runs.files import flush


def refuse_taken(folder: Path) -> None:
    """Raises FileExistsError for a folder with something in it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name another folder, or remove it")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder next to `folder` that becomes it, on the disk, when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            flush(path)
        refuse_taken(folder)
        os.replace(temporary, folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
