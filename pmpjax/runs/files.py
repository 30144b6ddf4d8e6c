"""Files that are either the old one or the new one, whenever the process dies."""

import dataclasses
import enum
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmpjax.runs.lock import RunError

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same ending, and renames it to `path` when the block ends well.

    The content is flushed to disk first. When the block raises, the temporary file is removed and `path` is as it was.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
    >>> with atomic(target) as temporary:
    ...     _ = temporary.write_text("42")
    ...     target.exists()
    False
    >>> target.read_text()
    '42'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Asks the kernel to put a file, or a folder's list of names, on the disk."""
    windows = os.name == "nt"  # it has no such call for folders, and wants a file opened for writing
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON atomically; see `plain` for what is accepted."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Reads what `write_json` wrote, or any other JSON.

    Raises:
        RunError: there is no such file, or it holds something else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.json"
    >>> write_json(path, {"loss": (1.5, None)})
    >>> read_json(path)
    {'loss': [1.5, None]}
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent} has no {path.name}; it was not written by this program, or moved away"
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise RunError(f"{path} is not JSON ({error}); delete {path.parent} to begin again") from error


def write_table(path: Path | str, table: "pa.Table | Mapping[str, Any]") -> None:
    """Writes a small table, or columns by name, atomically as Parquet; the same content gives the same bytes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.parquet"
    >>> write_table(path, {"id": ["a", "b"], "score": np.array([0.5, 1.5])})
    >>> read_table(path, "score")["score"].tolist()
    [0.5, 1.5]
    """
    import pyarrow as pa  # a tenth of a second of imports, only for those who have tables
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(dict(table)), temporary, compression="zstd")


def read_table(path: Path | str, *columns: str) -> dict[str, np.ndarray]:
    """The named columns of a small Parquet file, by default all; text comes as arrays of objects."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=list(columns) or None)
    return {name: table[name].to_numpy() for name in table.column_names}


def with_ending(path: Path | str, ending: str) -> Path:
    """The path, with `ending` put behind a name that does not have it yet; other dots are part of the name.

    >>> with_ending("model-v1.2", ".npz").name, with_ending("model.npz", ".npz").name
    ('model-v1.2.npz', 'model.npz')
    """
    path = Path(path)
    return path if path.suffix == ending else path.with_name(path.name + ending)


def write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays atomically as an uncompressed .npz, which `path` may end with or not."""
    with atomic(with_ending(path, ".npz")) as temporary:
        np.savez(temporary, **{name: np.asarray(array) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote."""
    with np.load(with_ending(path, ".npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def plain(value: Any) -> Any:
    """The JSON form of configs, arrays and containers.

    Dataclasses become mappings, tuples and arrays lists, paths text, enums their names, and numbers that are not finite
    null (JSON has no word for them). Anything else is a TypeError that names its type.

    >>> plain({"path": Path("a"), 3: (1.5, float("inf")), "x": np.arange(2)})
    {'path': 'a', '3': [1.5, None], 'x': [0, 1]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    raise TypeError(
        f"cannot write {type(value).__name__} as JSON: {value!r}; convert it to numbers, text, lists or mappings"
    )


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
