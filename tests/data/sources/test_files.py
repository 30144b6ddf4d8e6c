import gzip
import json
import os
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from pmpjax.data.documents import MAXIMUM_BYTES, Document, Rejection, SourceError
from pmpjax.data.sources.files import CHUNK_BYTES, LINE_BYTES, read_files


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
    assert len(documents) > 5 and max(len(document.text) for document in documents) <= CHUNK_BYTES


def test_a_bad_byte_costs_a_text_file_one_chunk(tmp_path):
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
    found = [(item.file.rpartition("/")[2], item.line > 100) for item in rejected]
    assert found == [("a.jsonl.gz", True), ("b.parquet", False), ("c.txt", False), ("d.jsonl.gz", False)]
    assert rejected[0].line == sum(document.group == "a.jsonl.gz" for document in documents) + 1


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


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def noise(size):
    return random.Random(size).randbytes(size)


def test_records_that_are_json(tmp_path):
    path = tmp_path / "pile.arrayrecord"
    write_records(path, [line for line, _ in BAD_LINES])
    documents, rejected = read(path)
    assert [(document.id, document.text) for document in documents] == [
        ("pile.arrayrecord:1", "good one"),
        ("pile.arrayrecord:mine", "good two"),
    ]
    assert documents[1].origin == f"{path.as_posix()}:{len(BAD_LINES)}"
    wanted = [(number, reason) for number, (_, reason) in enumerate(BAD_LINES, 1) if reason]
    assert [item.line for item in rejected] == [number for number, _ in wanted]
    assert all(reason in item.reason for item, (_, reason) in zip(rejected, wanted, strict=True))


def test_records_that_are_text(tmp_path):
    texts = [
        b"{not JSON, but a text",
        b"two\nlines",
        b"\xff",
        b"",
        b"zero\0byte",
        *(f"row {i}".encode() for i in range(600)),
    ]
    write_records(tmp_path / "a.arrayrecord", texts)
    documents, rejected = read(tmp_path / "a.arrayrecord")
    assert [document.text for document in documents] == [text.decode() for text in (*texts[:2], *texts[5:])]
    assert [(item.line, item.reason.split(":")[0]) for item in rejected] == [
        (3, "not UTF-8"),
        (4, "empty"),
        (5, "binary"),
    ]


def test_a_changed_byte_costs_one_record(tmp_path):
    path = tmp_path / "a.arrayrecord"
    write_records(path, [noise(400).hex().encode() for _ in range(1000)])
    data = bytearray(path.read_bytes())
    data[100_000] ^= 0xFF
    path.write_bytes(data)
    documents, rejected = read(path)
    assert len(documents) == 999 and len(rejected) == 1
    assert rejected[0].line not in {int(document.origin.rpartition(":")[2]) for document in documents}
    assert "unreadable" in rejected[0].reason


def rows_of(count):
    return b"".join(json.dumps({"text": f"row {i} {noise(i + 40).hex()}"}).encode() + b"\n" for i in range(count))


def parquet_bytes(count):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {i} {noise(i + 40).hex()}" for i in range(count)]}), sink)
    return sink.getvalue().to_pybytes()


def record_bytes(count):
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder, "a"), rows_of(count).splitlines())
        return Path(folder, "a").read_bytes()


def damaged(data):
    return data[:30_000] + noise(500) + data[30_500:]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        *((f"empty.{ending}", b"", 0, "empty") for ending in ("txt", "jsonl", "jsonl.gz", "parquet", "arrayrecord")),
        *((f"blank.{ending}", b"\n", 1, "empty") for ending in ("jsonl",)),
        ("binary.txt", b"words\n" + bytes(300), 0, "binary: holds zero bytes"),
        ("binary.jsonl", noise(50).replace(b"\n", b"") + bytes(10), 1, "binary: a zero byte"),
        ("binary.jsonl.gz", noise(5000), 0, "unreadable: Not a gzipped file"),
        ("binary.parquet", noise(5000), 0, "unreadable: Parquet magic bytes not found"),
        ("binary.arrayrecord", noise(70_000), 0, "unreadable: "),
        ("latin.txt", "caf\u00e9 au lait".encode("latin-1"), 1, "not UTF-8: byte 0xe9 at 3"),
        ("latin.jsonl", '{"text": "caf\u00e9"}'.encode("latin-1"), 1, "not UTF-8: byte 0xe9 at 13"),
        ("wide.txt", "words".encode("utf-16"), 0, "binary"),
        ("long.txt", b"x" * (MAXIMUM_BYTES + 1), 1, f"too long: {MAXIMUM_BYTES + 1} bytes"),
        ("long.jsonl", b'{"text": "' + b"x" * 2 * LINE_BYTES + b'"}', 1, f"too long: a line of {2 * LINE_BYTES + 12}"),
        ("cut.jsonl", b'{"text": "never clo', 1, "broken JSON"),
        ("cut.jsonl.gz", gzip.compress(rows_of(300))[:9000], 1, "unreadable from here on: Compressed file ended"),
        ("cut.parquet", parquet_bytes(300)[:-9000], 0, "unreadable: Parquet magic bytes not found"),
        ("cut.arrayrecord", record_bytes(300)[:-9000], 0, "unreadable: "),
        ("damaged.jsonl.gz", damaged(gzip.compress(rows_of(300))), 1, "unreadable from here on"),
        ("column.jsonl", b'{"body": "x"}', 1, "no field 'text'; found 'body'"),
        ("none.arrayrecord", record_bytes(0), 1, "empty: no records"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_bad_files_are_rejected_with_file_and_line_and_the_rest_is_read(tmp_path, name, content, line, reason):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "zz.txt").write_text("good\n")
    documents, rejected = read(tmp_path)
    assert documents[-1].text == "good\n"
    assert {item.file for item in rejected} == {(tmp_path / name).as_posix()}
    # What breaks in the middle keeps the good rows before it and names the first that is lost.
    good = len(documents) - 1
    assert rejected[-1].line == (good + line if line else 0) and reason in rejected[-1].reason


def test_a_line_longer_than_the_buffer_costs_itself(tmp_path):
    lines = [b'{"text": "one"}', b'{"text": "' + b"x" * LINE_BYTES + b'"}', b'{"text": "two"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, rejected = read(tmp_path / "a.jsonl")
    assert [(document.text, document.origin.rpartition(":")[2]) for document in documents] == [
        ("one", "1"),
        ("two", "3"),
    ]
    assert [item.line for item in rejected] == [2]


def test_what_may_not_be_read_is_listed(tmp_path):
    tmp_path.joinpath("z.jsonl").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "e.txt").write_text("good\n")
    documents, rejected = read(tmp_path)
    assert len(documents) == 1
    assert [(item.file.rpartition("/")[2], item.reason) for item in rejected] == [
        ("pipe.txt", "not a regular file"),
        ("z.jsonl", "unreadable: a link to nothing"),
    ]


@pytest.fixture
def without_rights():
    """A folder that anyone may enter, and a process that is not root inside the test."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "open").mkdir()
        root = os.geteuid() == 0
        yield Path(folder) / "open", (lambda: os.seteuid(65534)) if root else (lambda: None)
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "jsonl.gz", "parquet", "arrayrecord"])
def test_permissions(without_rights, ending):
    folder, drop = without_rights
    (folder / "shut").mkdir()
    (folder / f"a.{ending}").write_bytes(b"words")
    (folder / "b.txt").write_text("good\n")
    os.chmod(folder / f"a.{ending}", 0)
    os.chmod(folder / "shut", 0)
    drop()
    documents, rejected = read(folder)
    assert [document.text for document in documents] == ["good\n"]
    assert [item.file.rpartition("/")[2] for item in rejected] == ["shut", f"a.{ending}"]
    assert all("unreadable" in item.reason and "ermission denied" in item.reason for item in rejected)
    with pytest.raises(SourceError, match=r"cannot be read .*ermission denied"):
        list(read_files(folder / "shut" / "a.txt"))
