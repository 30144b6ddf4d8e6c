"""Documents from local files: .txt, .jsonl, .jsonl.gz, .parquet, .arrayrecord, and folders of them."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pmpjax.data.documents import MAXIMUM_BYTES, Document, Rejection, SourceError, chunks, reject_reason
from pmpjax.runs.errors import first_line

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet", ".arrayrecord")
CHUNK_BYTES = 4_096
"""A .txt file has no rows: it is cut into chunks of about this size, at blank lines where possible."""

LINE_BYTES = 8 * MAXIMUM_BYTES
"""A longer line of JSON holds no document (escapes make a text up to six times longer); it is skipped in chunks."""

_RECORDS = 256
"""Records of an .arrayrecord file that are read at a time."""


def read_files(path: Path | str) -> Iterator[Document | Rejection]:
    """Reads the documents of a file, or of all files with a known ending below a folder, in the order of their names.

    .jsonl and .parquet have one document a row, in the field or column `text` (`id` is optional). So does .arrayrecord:
    its records are such JSON objects, or UTF-8 texts where none of the first 256 is one. A .txt file is cut into chunks
    of about 4 KB. A row that is not UTF-8, empty, too long, of the wrong type or broken comes as a `Rejection` with
    file and line (record); so does a file that is binary, is not allowed to be read, or cannot be read to its end.
    Raises `SourceError` when nothing is there, or no file has a known ending.
    """
    path = Path(path)
    try:
        single, there = path.is_file(), path.exists()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); allow it, or name another") from error
    if not there:
        raise SourceError(f"{path} does not exist; give a file or folder of {', '.join(SUFFIXES)}, or installed-docs")
    barred: list[OSError] = []
    files = [path] if single else _files_below(path, barred)
    files = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    if not files and not barred:
        raise SourceError(f"{path} has no file that ends in {', '.join(SUFFIXES)}; convert it, or name another")
    for error in barred:
        yield Rejection(Path(error.filename).as_posix(), 0, f"unreadable: {error.strerror}")
    for file in files:
        yield from read_file(file, file.as_posix(), file.name if single else file.relative_to(path).as_posix())


def read_file(file: Path, name: str, label: str) -> Iterator[Document | Rejection]:
    """Reads one file with a known ending; see `read_files`.

    Args:
        name: of the file in origins and rejections.
        label: of the file in ids, and the group of its documents.
    """
    line = 0
    try:
        if not file.is_file():
            reason = "not a regular file" if file.exists() else "unreadable: a link to nothing"
            yield Rejection(name, 0, reason)
            return
        if file.stat().st_size == 0:
            yield Rejection(name, 0, "empty")
            return
        for line, identity, text in _rows(file):
            reason = text.args[0] if isinstance(text, _Broken) else reject_reason(text)
            if reason is not None:
                yield Rejection(name, line, reason)
            elif isinstance(text, str):
                yield Document(f"{label}:{line if identity is None else identity}", text, f"{name}:{line}", label)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = first_line(error)
        yield Rejection(name, line + 1 if line else 0, f"unreadable{' from here on' if line else ''}: {reason}")


def _files_below(folder: Path, barred: list[OSError]) -> list[Path]:
    """Everything below a folder that is no folder, sorted; folders that may not be listed go to `barred`."""
    found = os.walk(folder, onerror=barred.append)
    return sorted(Path(place, name) for place, _, names in found for name in names)


class _Broken(Exception):
    """A row in which no text could be found; its message is the reason of the rejection."""


def _rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    """(line, id, text) of each row; the text may be anything, `_Broken` among it."""
    ending = next(suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix))
    if ending == ".txt":
        with file.open("rb") as stream:
            if b"\0" in stream.read(8192):
                yield 0, None, _Broken("binary: holds zero bytes")
                return
        for line, data in chunks(file.read_bytes(), CHUNK_BYTES):
            if data.strip():
                yield line, None, _decode(data)
    elif ending == ".parquet":
        yield from _parquet_rows(file)
    elif ending == ".arrayrecord":
        yield from _record_rows(file)
    else:
        with gzip.open(file) if ending == ".jsonl.gz" else file.open("rb") as stream:
            for line, data in enumerate(_lines(stream), 1):
                identity, text = (None, data) if isinstance(data, _Broken) else _json_row(data)
                yield line, identity, text


def _lines(stream: BufferedIOBase) -> Iterator[bytes | _Broken]:
    """The lines of a stream; one that fills no buffer of `LINE_BYTES` is read over, not into memory."""
    while data := stream.readline(LINE_BYTES):
        if len(data) < LINE_BYTES or data.endswith(b"\n"):
            yield data
            continue
        size = len(data)
        while data and not data.endswith(b"\n"):
            data = stream.readline(LINE_BYTES)
            size += len(data)
        yield _Broken(f"too long: a line of {size} bytes, at most {LINE_BYTES}")


def _decode(data: bytes) -> str | _Broken:
    if b"\0" in data:
        return _Broken(f"binary: a zero byte at {data.index(0)}")
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


def _record_rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    """Records by number from 1. A record whose checksum fails costs itself; the format goes on behind it."""
    records = enumerate(_records(file), 1)
    first = list(islice(records, _RECORDS))
    texts = [_json_row(data)[1] for _, data in first if isinstance(data, bytes) and data.strip()]
    is_json = any(not isinstance(text, _Broken) for text in texts)
    for part in (first, records):
        for line, data in part:
            if isinstance(data, _Broken):
                yield line, None, data
            else:
                identity, text = _json_row(data) if is_json else (None, _decode(data))
                yield line, identity, text


def _records(file: Path) -> Iterator[bytes | _Broken]:
    reader = ArrayRecordReader(str(file))
    count = reader.num_records()
    if not reader.ok():
        try:
            reader.close()  # only here does the reader say why it could not open
        except Exception as error:  # the C++ side raises several types
            raise OSError(str(error)) from error
    if count == 0:
        yield _Broken("empty: no records")
    for begin in range(0, count, _RECORDS):
        end = min(begin + _RECORDS, count)
        try:
            part: list[bytes | _Broken] = reader.read(begin, end)
        except Exception:  # the C++ side raises several types; one by one, the records that are whole are found
            part = [_record(file, number) for number in range(begin, end)]
        yield from part
    reader.close()


def _record(file: Path, number: int) -> bytes | _Broken:
    # A reader that has failed once is closed: each record that follows gets its own.
    try:
        return ArrayRecordReader(str(file)).read([number])[0]
    except Exception as error:  # the C++ side raises several types
        return _Broken(f"unreadable: {first_line(error)}")


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
