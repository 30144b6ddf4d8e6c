"""Documents from local files: .txt, .jsonl, .jsonl.gz, .parquet, and folders of them."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data.documents import Document, Rejection, SourceError, fault, pieces

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
PIECE_BYTES = 4_096
"""A .txt file has no rows: it is cut into pieces of about this size, at blank lines where possible."""


def read_files(path: Path | str) -> Iterator[Document | Rejection]:
    """Reads the documents of a file, or of all files with a known ending below a folder, in the order of their names.

    .jsonl and .parquet have one document a row, in the field or column `text` (`id` is optional); a .txt file is cut
    into pieces of about 4 KB. A row that is not UTF-8, empty, too long, of the wrong type or broken comes as a
    `Rejection` with file and line; so does a file that cannot be read to its end.
    Raises `SourceError` when nothing is there, or no file has a known ending.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a file or folder of {', '.join(SUFFIXES)}, or installed-docs")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    if not files:
        raise SourceError(f"{path} has no file that ends in {', '.join(SUFFIXES)}; convert it, or name another")
    for file in files:
        name = file.as_posix()
        label = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            if file.stat().st_size == 0:
                yield Rejection(name, 0, "empty")
            for line, identity, text in _rows(file):
                reason = text.args[0] if isinstance(text, _Broken) else fault(text)
                if reason is not None:
                    yield Rejection(name, line, reason)
                elif isinstance(text, str):
                    yield Document(f"{label}:{line if identity is None else identity}", text, f"{name}:{line}", label)
        except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
            yield Rejection(name, 0, f"unreadable: {error}")


class _Broken(Exception):
    """A row in which no text could be found; its message is the reason of the rejection."""


def _rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    """(line, id, text) of each row; the text may be anything, `_Broken` among it."""
    if file.name.lower().endswith(".txt"):
        for line, data in pieces(file.read_bytes(), PIECE_BYTES):
            if data.strip():
                yield line, None, _decode(data)
    elif file.name.lower().endswith(".parquet"):
        yield from _parquet_rows(file)
    else:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            for line, data in enumerate(stream, 1):
                yield line, *_json_row(data)


def _decode(data: bytes) -> str | _Broken:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _Broken(f"not UTF-8: byte {data[error.start]:#04x} at {error.start}")


def _json_row(data: bytes) -> tuple[str | None, object]:
    text = _decode(data)
    if isinstance(text, _Broken):
        return None, text
    if not text.strip():
        return None, ""
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return None, _Broken(f"broken JSON: {error}")
    if not isinstance(row, dict):
        return None, _Broken(f"wrong type: expected an object, found {type(row).__name__}")
    if "text" not in row:
        return None, _Broken(f"no field 'text'; found {', '.join(map(repr, list(row)[:5])) or 'no fields'}")
    identity = row.get("id")
    return (str(identity) if isinstance(identity, str | int) else None), row["text"]


def _parquet_rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    if "text" not in names:
        raise SourceError(
            f"{file} has no column 'text', its columns are {', '.join(names)}; rename the one with the text"
        )
    line = 0
    for batch in table.iter_batches(columns=[name for name in ("id", "text") if name in names]):
        # Arrow trusts the writer that strings are UTF-8: read the bytes, so that a bad row costs one row, not the file.
        column = batch.column("text")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        identities = batch.column("id").to_pylist() if "id" in names else [None] * batch.num_rows
        for identity, text in zip(identities, column.to_pylist(), strict=True):
            line += 1
            yield line, None if identity is None else str(identity), _decode(text) if isinstance(text, bytes) else text
