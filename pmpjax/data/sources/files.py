"""Documents from local files: .txt, .jsonl, .jsonl.gz, .parquet, .arrayrecord, and folders of them."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
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

UNREADABLE = (OSError, EOFError, zlib.error, pa.ArrowException)
"""What is raised by a file that cannot be opened, or not be read to its end."""

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
            reason = text.args[0] if isinstance(text, Broken) else reject_reason(text)
            if reason is not None:
                yield Rejection(name, line, reason)
            elif isinstance(text, str):
                yield Document(f"{label}:{line if identity is None else identity}", text, f"{name}:{line}", label)
    except UNREADABLE as error:
        yield unreadable(name, line, error)


def unreadable(name: str, line: int, error: BaseException) -> Rejection:
    """The rejection of what follows the last line that could be read (0: of the whole file)."""
    return Rejection(name, line + 1 if line else 0, f"unreadable{' from here on' if line else ''}: {first_line(error)}")


def _files_below(folder: Path, barred: list[OSError]) -> list[Path]:
    """Everything below a folder that is no folder, sorted; folders that may not be listed go to `barred`."""
    found = os.walk(folder, onerror=barred.append)
    return sorted(Path(place, name) for place, _, names in found for name in names)


class Broken(Exception):
    """A row or value in which no text could be found; its message is the reason of the rejection."""


def _rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    """(line, id, text) of each row; the text may be anything, `Broken` among it."""
    ending = next(suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix))
    if ending == ".txt":
        with file.open("rb") as stream:
            if b"\0" in stream.read(8192):
                yield 0, None, Broken("binary: holds zero bytes")
                return
        for line, data in chunks(file.read_bytes(), CHUNK_BYTES):
            if data.strip():
                yield line, None, decode(data)
    elif ending == ".parquet":
        for line, row in enumerate(parquet_rows(file, ["text"], ["id"]), 1):
            identity = row.get("id")
            yield line, None if identity is None or isinstance(identity, Broken) else str(identity), row["text"]
    elif ending == ".arrayrecord":
        yield from _record_rows(file)
    else:
        with gzip.open(file) if ending == ".jsonl.gz" else file.open("rb") as stream:
            for line, data in enumerate(read_lines(stream), 1):
                identity, text = (None, data) if isinstance(data, Broken) else _json_row(data)
                yield line, identity, text


def read_lines(stream: BufferedIOBase) -> Iterator[bytes | Broken]:
    """The lines of a stream; one that fills no buffer of `LINE_BYTES` is read over, not into memory."""
    while data := stream.readline(LINE_BYTES):
        if len(data) < LINE_BYTES or data.endswith(b"\n"):
            yield data
            continue
        size = len(data)
        while data and not data.endswith(b"\n"):
            data = stream.readline(LINE_BYTES)
            size += len(data)
        yield Broken(f"too long: a line of {size} bytes, at most {LINE_BYTES}")


def decode(data: bytes) -> str | Broken:
    """Text from its bytes in UTF-8; `Broken` with the first byte that is none.

    >>> decode(b"caf\\xc3\\xa9"), decode(b"caf\\xe9")
    ('café', Broken('not UTF-8: byte 0xe9 at 3'))
    """
    if b"\0" in data:
        return Broken(f"binary: a zero byte at {data.index(0)}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Broken(f"not UTF-8: byte {data[error.start]:#04x} at {error.start}")


def json_object(data: bytes, required: Sequence[str]) -> dict[str, object] | Broken:
    """The object of a line of JSON, which has all required fields.

    >>> json_object(b'{"body": 1}', ["text"])
    Broken("no field 'text'; found 'body'")
    """
    text = decode(data)
    if isinstance(text, Broken):
        return text
    if not text.strip():
        return Broken("empty")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a plain ValueError
        return Broken(f"broken JSON: {error}")
    if not isinstance(row, dict):
        return Broken(f"wrong type: expected an object, found {type(row).__name__}")
    for name in required:
        if name not in row:
            return Broken(f"no field {name!r}; found {', '.join(map(repr, list(row)[:5])) or 'no fields'}")
    return row


def _json_row(data: bytes) -> tuple[str | None, object]:
    row = json_object(data, ["text"])
    if isinstance(row, Broken):
        return None, row
    identity = row.get("id")
    return (str(identity) if isinstance(identity, str | int) else None), row["text"]


def _record_rows(file: Path) -> Iterator[tuple[int, str | None, object]]:
    """Records by number from 1. A record whose checksum fails costs itself; the format goes on behind it."""
    records = enumerate(_records(file), 1)
    first = list(islice(records, _RECORDS))
    texts = [_json_row(data)[1] for _, data in first if isinstance(data, bytes) and data.strip()]
    is_json = any(not isinstance(text, Broken) for text in texts)
    for part in (first, records):
        for line, data in part:
            if isinstance(data, Broken):
                yield line, None, data
            else:
                identity, text = _json_row(data) if is_json else (None, decode(data))
                yield line, identity, text


def _records(file: Path) -> Iterator[bytes | Broken]:
    reader = ArrayRecordReader(str(file))
    count = reader.num_records()
    if not reader.ok():
        try:
            reader.close()  # only here does the reader say why it could not open
        except Exception as error:  # the C++ side raises several types
            raise OSError(str(error)) from error
    if count == 0:
        yield Broken("empty: no records")
    for begin in range(0, count, _RECORDS):
        end = min(begin + _RECORDS, count)
        try:
            part: list[bytes | Broken] = reader.read(begin, end)
        except Exception:  # the C++ side raises several types; one by one, the records that are whole are found
            part = [_record(file, number) for number in range(begin, end)]
        yield from part
    reader.close()


def _record(file: Path, number: int) -> bytes | Broken:
    # A reader that has failed once is closed: each record that follows gets its own.
    try:
        return ArrayRecordReader(str(file)).read([number])[0]
    except Exception as error:  # the C++ side raises several types
        return Broken(f"unreadable: {first_line(error)}")


def parquet_rows(file: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, object]]:
    """The rows of a .parquet file, with some of its columns; a text that is not UTF-8 is `Broken`.

    Raises `SourceError` where a required column is missing, with the names of those that there are.
    """
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    for name in required:
        if name not in names:
            raise no_column(file.as_posix(), name, names)
    wanted = [name for name in (*required, *optional) if name in names]
    for batch in table.iter_batches(columns=wanted):
        columns = [_bytes_of(batch.column(name)).to_pylist() for name in wanted]
        for values in zip(*columns, strict=True):
            yield {
                name: decode(value) if isinstance(value, bytes) else value
                for name, value in zip(wanted, values, strict=True)
            }


def no_column(file: str, name: str, names: Sequence[str]) -> SourceError:
    """The error of a table without a wanted column.

    >>> str(no_column("a.csv", "text", ["Text", "label"]))
    "a.csv has no column 'text', its columns are Text, label; rename one of them, or name the column that holds it"
    """
    return SourceError(
        f"{file} has no column {name!r}, its columns are {', '.join(names)}; "
        "rename one of them, or name the column that holds it"
    )


def _bytes_of(column: pa.Array) -> pa.Array:
    # Arrow trusts the writer that strings are UTF-8: read the bytes, so that a bad row costs one row, not the file.
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
    return column
