import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.data.documents import MAXIMUM_BYTES, Document, Rejection, SourceError
from pmpjax.data.files import PIECE_BYTES, read_files


def read(path):
    rows = list(read_files(path))
    documents = [row for row in rows if isinstance(row, Document)]
    rejected = [row for row in rows if isinstance(row, Rejection)]
    assert len(documents) + len(rejected) == len(rows)
    return documents, rejected


BAD_LINES = [
    (b'{"text": "good one"}', None),
    (b'{"text": broken', "broken JSON"),
    (b'["text"]', "expected an object, found list"),
    (b'{"body": "x"}', "no field 'text'; found 'body'"),
    (b"{}", "no fields"),
    (b'{"text": 7}', "found int"),
    (b'{"text": null}', "found NoneType"),
    (b'{"text": "  "}', "empty"),
    (b"", "empty"),
    (b'{"text": "\xff\xfe"}', "not UTF-8: byte 0xff at 10"),
    (b'{"text": "\\ud800"}', "surrogate"),
    (b'{"text": "' + b"x" * (MAXIMUM_BYTES + 1) + b'"}', "too long"),
    (b"[" * 100_000, "broken JSON"),
    (b'{"text": "good two", "id": "mine"}', None),
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_bad_json_rows_are_listed_by_line(tmp_path, ending):
    path = tmp_path / f"pile{ending}"
    data = b"\n".join(line for line, _ in BAD_LINES) + b"\n"
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    documents, rejected = read(path)
    assert [document.text for document in documents] == ["good one", "good two"]
    assert [document.id for document in documents] == [f"pile{ending}:1", f"pile{ending}:mine"]
    wanted = [(number, reason) for number, (_, reason) in enumerate(BAD_LINES, 1) if reason]
    assert [item.line for item in rejected] == [number for number, _ in wanted]
    assert all(item.file == path.as_posix() for item in rejected)
    for item, (_, reason) in zip(rejected, wanted, strict=True):
        assert reason in item.reason


def test_text_files_are_cut_and_lose_nothing(tmp_path):
    text = "".join(f"paragraph {i} with some words\n\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(text)
    documents, rejected = read(tmp_path / "a.txt")
    assert not rejected and "".join(document.text for document in documents) == text
    assert len(documents) > 5 and max(len(document.text) for document in documents) <= PIECE_BYTES


def test_a_bad_byte_costs_a_text_file_one_piece(tmp_path):
    good = b"fine words\n" * 400
    (tmp_path / "a.txt").write_bytes(good + b"\nbad \xff byte\n\n" + good)
    documents, rejected = read(tmp_path / "a.txt")
    assert len(rejected) == 1 and "not UTF-8" in rejected[0].reason and len(documents) >= 2


def test_parquet_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "", "four"], "id": ["a", "b", "c", None]}), path)
    documents, rejected = read(path)
    assert [(d.id, d.text, d.origin) for d in documents] == [
        ("a.parquet:a", "one", f"{path.as_posix()}:1"),
        ("a.parquet:4", "four", f"{path.as_posix()}:4"),
    ]
    assert [(item.line, item.reason.split(":")[0]) for item in rejected] == [(2, "wrong type"), (3, "empty")]


def test_parquet_bytes_that_are_no_text_cost_one_row(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"\xff\xfe", b"fine too"]).view(pa.string())  # a writer that did not check
    pq.write_table(pa.table({"text": raw}), path)
    documents, rejected = read(path)
    assert [document.text for document in documents] == ["fine", "fine too"]
    assert [item.line for item in rejected] == [2]


def test_a_missing_column_names_those_found(tmp_path):
    pq.write_table(pa.table({"body": ["one"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"no column 'text', its columns are body"):
        list(read_files(tmp_path / "a.parquet"))


def test_broken_files_are_rejections_not_ends(tmp_path):
    packed = gzip.compress(b"".join(json.dumps({"text": f"row {i} " * 50}).encode() + b"\n" for i in range(500)))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "c.txt").write_bytes(b"")
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "e.txt").write_text("good\n")
    (tmp_path / "f.png").write_bytes(b"\x89PNG")
    documents, rejected = read(tmp_path)
    assert documents[-1].text == "good\n"
    assert [item.file.rpartition("/")[2] for item in rejected if item.line == 0] == [
        "a.jsonl.gz",
        "b.parquet",
        "c.txt",
        "d.jsonl.gz",
    ]


def test_folders_are_read_in_order_and_grouped_by_file(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "sub/a.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    documents, _ = read(tmp_path)
    assert [document.text for document in documents] == ["a.jsonl", "b.jsonl", "sub/a.jsonl"]
    assert [document.group for document in documents] == ["a.jsonl", "b.jsonl", "sub/a.jsonl"]


@pytest.mark.parametrize(("name", "word"), [("absent", "does not exist"), ("empty", "has no file that ends in")])
def test_nothing_to_read_is_an_error(tmp_path, name, word):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=word):
        list(read_files(tmp_path / name))
