import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.data.documents import Rejection, SourceError
from pmpjax.data.sources.tables import read_table

TEXTS = ["plain words", 'with "quotes", and a comma', "two\nlines", "naïve 日本語", "a\ttab"]
LABELS = ["a", "b", "a", "b", "a"]


def write(path, texts=TEXTS, labels=LABELS, columns=("text", "label")):
    """The same table in the format of the file's ending, with a further column between."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.table({columns[0]: texts, "other": [1] * len(texts), columns[1]: labels}), path)
        return path
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8", newline="") as stream:
        if name.endswith(".jsonl"):
            for text, label in zip(texts, labels, strict=True):
                stream.write(json.dumps({columns[0]: text, "other": 1, columns[1]: label}) + "\n")
        else:
            rows = csv.writer(stream, delimiter="\t" if name.endswith(".tsv") else ",")
            rows.writerows(
                [(columns[0], "other", columns[1]), *((t, 1, l) for t, l in zip(texts, labels, strict=True))]
            )
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".CSV"])
def test_every_format_gives_the_same_table(tmp_path, ending):
    table = read_table(write(tmp_path / f"table{ending}"))
    assert table.texts == TEXTS and table.labels == LABELS and table.rejected == []
    assert table == read_table(str(tmp_path / f"table{ending}"))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_columns_are_chosen_by_name(tmp_path, ending):
    path = write(tmp_path / f"table{ending}", columns=("body", "kind"))
    assert read_table(path, text="body", label="kind").texts == TEXTS
    alone = read_table(path, text="body", label=None)
    assert alone.texts == TEXTS and alone.labels == []
    with pytest.raises(SourceError, match=r"(no column|no field) 'text'.*body.*other.*kind"):
        read_table(path)


CSV = b"\xef\xbb\xbftext,label\n" + b"\n".join(
    [
        b"good one,a",
        b",a",
        b"no label,",
        b"no label,  ",
        b"too, many,columns",
        b"too few",
        b"",
        b"caf\xe9,a",
        b"zero\0byte,a",
        b"label,\xff",
        b'"never closed,a',
        b'"good, two\nlines",b',
        b'"closed" too early,a',
        b"x" * 140_000 + b",a",
        b'good "three", a ',
    ]
)


def test_bad_rows_of_csv_are_listed_by_line_and_cost_no_other_row(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(CSV)
    table = read_table(path)
    assert list(zip(table.texts, table.labels, table.lines, strict=True)) == [
        ("good one", "a", 2),
        ("good, two\nlines", "b", 13),
        ('good "three"', "a", 17),
    ]
    assert all(item.file == path.as_posix() for item in table.rejected)
    assert [(item.line, item.reason[:12]) for item in table.rejected] == [
        (3, "empty"),
        (4, "no label"),
        (5, "no label"),
        (6, "3 columns, e"),
        (7, "1 columns, e"),
        (8, "empty"),
        (9, "not UTF-8: b"),
        (10, "binary: a ze"),
        (11, "label not UT"),
        (12, "broken quote"),
        (15, "broken quote"),
        (16, "too long: mo"),
    ]
    assert table.rejected[6].reason == "not UTF-8: byte 0xe9 at 3"


@pytest.mark.parametrize("last", [b'"never closed,a\nfine,b\n', b'"never closed,a\n"fine",b'])
def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path, last):
    path = tmp_path / "table.csv"
    path.write_bytes(b"text,label\n" + last)
    table = read_table(path)
    assert table.texts == ["fine"] and table.lines == [3]
    assert [item.line for item in table.rejected] == [2]


def test_a_tsv_without_quoting_is_read_as_it_stands(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_bytes(b'text\tlabel\r\n"Well" she said\ta\r\n"Well she said\tb\r\nfine\ta\r\n"quoted ""text"""\tb\r\n')
    assert read_table(path).texts == ['"Well" she said', '"Well she said', "fine", 'quoted "text"']


def test_bad_rows_of_jsonl_and_labels_of_other_types(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = ['{"text": "t", "label": 3}', '{"text": "t", "label": true}', '{"text": "t", "label": 3.0}', "[1]", "", "{x"]
    rows += ['{"text": "t"}', '{"text": 5, "label": 1}', '{"text": "t", "label": null}', '{"text": "t", "label": [1]}']
    rows += ['{"text": "t", "label": 0.5}', '{"text": "t", "label": "\\ud800"}', '{"text": "t", "label": NaN}']
    path.write_text("\n".join(rows))
    table = read_table(path)
    assert table.labels == ["3", "True", "3"] and table.lines == [1, 2, 3]
    assert [(item.line, item.reason) for item in table.rejected[3:]] == [
        (7, "no field 'label'; found 'text'"),
        (8, "wrong type: expected text, found int"),
        (9, "no label"),
        (10, "wrong type of label: list"),
        (11, "wrong type of label: float"),
        (12, "label not UTF-8: a lone surrogate"),
        (13, "no label"),
    ]


def test_columns_of_parquet_by_type(tmp_path):
    bad = pa.array([b"fine", b"caf\xe9", b"last", b"none"], pa.binary()).view(pa.string())
    labels = pa.array(["x", "y", "x", None]).dictionary_encode()
    pq.write_table(pa.table({"text": bad, "label": labels}), tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet")
    assert table.texts == ["fine", "last"] and table.labels == ["x", "x"]
    assert [item.reason for item in table.rejected] == ["not UTF-8: byte 0xe9 at 3", "no label"]
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").labels == ["1"]


def test_a_file_that_ends_too_early_keeps_what_was_read(tmp_path):
    path = write(tmp_path / "table.jsonl.gz", [f"text {i * i}" for i in range(20_000)], ["a", "b"] * 10_000)
    path.write_bytes(path.read_bytes()[:-9_000])
    table = read_table(path)
    assert 0 < len(table.texts) < 20_000
    assert table.rejected == [
        Rejection(path.as_posix(), len(table.texts) + 1, table.rejected[0].reason),
    ]
    assert "unreadable from here on" in table.rejected[0].reason


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"Text,label\nx,y\n", "no column 'text', its columns are Text, label"),
        ("a.csv", b"text;label\nx;y\n", "no column 'text', its columns are text;label"),
        ("a.csv", b"text,text,label\nx,y,z\n", "several columns 'text'"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n,\n", "no good row, the first bad ones are .*a.csv:2: empty"),
        ("a.csv", b'"text,label\nx,y\n', "names no columns: broken quotes"),
        ("a.csv", b"text,label\rx,y\rz,w\r", "names no columns: a carriage return inside a line"),
        ("a.xlsx", b"", r"no table that can be read; give a file that ends in \.csv"),
        ("a.parquet", b"none", "unreadable"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_table(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.csv does not exist"):
        read_table(tmp_path / "nothing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SourceError, match="is no file"):
        read_table(tmp_path / "folder.csv")
