"""A user's labelled table: .csv, .tsv, .jsonl, plain or .gz, and .parquet; columns are chosen by name."""

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pmpjax.data.documents import Rejection, SourceError, no_good_row, reject_reason
from pmpjax.data.sources.files import (
    UNREADABLE,
    Broken,
    json_object,
    no_column,
    parquet_rows,
    read_lines,
    unreadable,
)
from pmpjax.runs.errors import first_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")


class Table(NamedTuple):
    """The good rows of a table, in the file's order.

    Fields:
        texts: as they stand.
        labels: without the white space around them; empty where no label was asked for.
        lines: the 1-based line on which each row begins (row of .parquet).
        rejected: the bad rows, with file and line.
    """

    texts: list[str]
    labels: list[str]
    lines: list[int]
    rejected: list[Rejection]


def read_table(path: Path | str, *, text: str = "text", label: str | None = "label") -> Table:
    """Reads texts and labels from a file with named columns.

    A label is text, a whole number or a truth value. A row is bad where the text is empty, no text, not UTF-8 or too
    long, where the label is missing, and where the row itself is broken: it is listed in `rejected` and costs no other
    row. A quote in a .csv that is never closed costs its own line. A column of .csv and .tsv holds at most 131,072
    characters (the limit of Python's `csv`).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mail.csv")
    ...     _ = file.write_text("id,body,kind\\n1,see you at noon,ham\\n2,,ham\\n3,win a prize,spam\\n")
    ...     table = read_table(file, text="body", label="kind")
    >>> table.texts, table.labels, [(item.line, item.reason) for item in table.rejected]
    (['see you at noon', 'win a prize'], ['ham', 'spam'], [(3, 'empty')])

    Args:
        path: of a file that ends in one of `TABLES`.
        text: name of the column (field of .jsonl) with the text.
        label: name of the column with the label; None reads texts alone, for prediction.

    Raises:
        SourceError: no such file, another ending, a column that is missing (with the names of those that there are),
            or not one good row.
    """
    file = Path(path)
    name = file.as_posix()
    if not file.name.lower().endswith(TABLES):
        raise SourceError(f"{name} is no table that can be read; give a file that ends in {', '.join(TABLES)}")
    if not file.is_file():
        found = "is no file" if file.exists() else "does not exist"
        raise SourceError(f"{name} {found}; give a file that ends in {', '.join(TABLES)}")
    if file.stat().st_size == 0:
        raise SourceError(f"{name} is empty; give a table whose first line names its columns")
    table = Table([], [], [], [])
    line = 0
    try:
        for line, row in read_rows(file, [text] if label is None else [text, label]):
            value = row if isinstance(row, Broken) else row[text]
            mark = "" if isinstance(row, Broken) or label is None else _label(row[label])
            reason = _reason(value) or (str(mark) if isinstance(mark, Broken) else None)
            if reason is not None:
                table.rejected.append(Rejection(name, line, reason))
                continue
            table.texts.append(str(value))
            table.lines.append(line)
            if label is not None:
                table.labels.append(str(mark))
    except UNREADABLE as error:
        table.rejected.append(unreadable(name, line, error))
    if not table.texts:
        raise no_good_row(name, table.rejected)
    return table


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, object] | Broken]]:
    """(line, values by column) of every row of a table; a row without such values is `Broken`.

    Raises `SourceError` where the table has no such column, and an `UNREADABLE` error where reading fails.
    """
    ending = file.name.lower().removesuffix(".gz")
    if ending.endswith(".parquet"):
        yield from enumerate(parquet_rows(file, columns), 1)
        return
    with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        lines = read_lines(stream)
        if ending.endswith(".jsonl"):
            for line, data in enumerate(lines, 1):
                yield line, data if isinstance(data, Broken) else json_object(data, columns)
            return
        rows = _delimited(lines, DELIMITERS[ending[-4:]])
        _, names = next(rows, (0, []))
        if isinstance(names, Broken):
            raise SourceError(f"{file.as_posix()}:1 names no columns: {names}; give their names in the first line")
        for column in columns:
            if names.count(column) != 1:
                if column in names:
                    raise SourceError(f"{file.as_posix()} has several columns {column!r}; give each its own name")
                raise no_column(file.as_posix(), column, names)
        for line, row in rows:
            yield line, row if isinstance(row, Broken) else _values(row, names, columns)


def _values(row: list[str], names: list[str], columns: Sequence[str]) -> dict[str, object] | Broken:
    if not any(row):
        return Broken("empty")
    if len(row) != len(names):
        return Broken(f"{len(row)} columns, expected {len(names)} as in the first line; quote what holds a delimiter")
    return {column: _whole(row[names.index(column)]) for column in columns}


def _whole(value: str) -> str | Broken:
    """A value without bytes that are no text: they came as the surrogates U+DC80 to U+DCFF, or as zero."""
    if "\0" in value:
        return Broken(f"binary: a zero byte at {value.index(chr(0))}")
    wrong = next((place for place, letter in enumerate(value) if "\udc80" <= letter <= "\udcff"), None)
    return value if wrong is None else Broken(f"not UTF-8: byte {ord(value[wrong]) - 0xDC00:#04x} at {wrong}")


def _delimited(lines: Iterator[bytes | Broken], delimiter: str) -> Iterator[tuple[int, list[str] | Broken]]:
    """(first line, values) of each row; after one that breaks the rules of quotes, reading goes on in its next line."""
    number = 0
    pending: list[bytes | Broken] = []
    while True:
        # What the reader took for one row, so that all but its first line can be read again.
        taken: list[bytes | Broken] = []
        source = chain(pending, lines)
        try:
            row = next(csv.reader(_texts(source, taken, first=number == 0), delimiter=delimiter, strict=True), None)
        except (csv.Error, Broken) as error:
            row = taken[0] if isinstance(taken[0], Broken) else Broken(_fault(error))
            if delimiter == "\t" and isinstance(taken[0], bytes):
                # Tables with tabs are often written without any quoting: there, a quote is a letter.
                row = next(_texts(iter(taken[:1]), [], first=number == 0)).rstrip("\r\n").split(delimiter)
            taken, again = taken[:1], taken[1:]
        else:
            again = []
        if row is None:
            return
        yield number + 1, row
        number += len(taken)
        pending = again + pending[len(taken) + len(again) :]


def _fault(error: BaseException) -> str:
    """What is wrong with a row: the messages of `csv` speak to programmers."""
    reason = first_line(error)
    if "field larger" in reason:
        return f"too long: more than {csv.field_size_limit()} characters in a column, or a quote that is never closed"
    if "new-line" in reason:
        return "a carriage return inside a line; end lines with a line feed"
    return "broken quotes: one that is never closed, or text behind a closing one; double a quote inside quotes"


def _texts(lines: Iterator[bytes | Broken], taken: list[bytes | Broken], *, first: bool) -> Iterator[str]:
    """Lines as text, each added to `taken`; bytes that are no UTF-8 become surrogates. A byte order mark is dropped."""
    for data in lines:
        taken.append(data)
        if isinstance(data, Broken):
            raise data
        text = data.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if first and len(taken) == 1 else text


def _reason(value: object) -> str | None:
    return str(value) if isinstance(value, Broken) else reject_reason(value)


def _label(value: object) -> str | Broken:
    """A label as text.

    >>> _label(" sport "), _label(3), _label(3.0), _label(None)
    ('sport', '3', '3', Broken('no label'))
    """
    if isinstance(value, Broken):
        return Broken(f"label {value}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Broken("no label")
    if isinstance(value, float) and value.is_integer():  # pandas writes whole numbers so, where one is missing
        return str(int(value))
    if isinstance(value, str):
        reason = _reason(value)
        return value.strip() if reason is None else Broken("no label" if reason == "empty" else f"label {reason}")
    return str(value) if isinstance(value, int) else Broken(f"wrong type of label: {type(value).__name__}")
