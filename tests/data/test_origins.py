import pytest

from pmpjax.data import Budget, Document, read_source
from pmpjax.data.origins import KINDS, by_kind, parse_origin


def test_origins_of_every_source_have_a_kind(tmp_path):
    (tmp_path / "a.txt").write_text("words of a text")
    (tmp_path / "b.jsonl").write_text('{"text": "words of a row"}\n')
    assert {parse_origin(d.origin) for d in read_source(str(tmp_path), Budget()).documents} == {
        ("txt", None),
        ("jsonl", None),
    }
    assert {parse_origin(d.origin) for d in read_source("story-grammar:9", Budget()).documents} == {
        ("story-grammar", None)
    }
    small = Budget(docstring=9_000, code=9_000, readme=9_000, changelog=9_000, licence=9_000, data=9_000)
    found = [parse_origin(d.origin) for d in read_source("installed-docs", small).documents]
    assert {origin.kind for origin in found} <= set(KINDS) and all(origin.package for origin in found)


@pytest.mark.parametrize("origin", ["", ":", "::", "a:b:c", "C:\\a\\b.txt:3", "a.b.c:1", "x:docstring:y:z"])
def test_any_text_has_a_kind(origin):
    kind, package = parse_origin(origin)
    assert isinstance(kind, str) and package is None


def test_all_documents_and_bytes_are_counted():
    documents = [
        Document(str(i), "é" * i, origin, "") for i, origin in enumerate(["a.txt:1", "p:code:x", "b.txt:2", "q"])
    ]
    counts = by_kind(documents)
    assert list(counts) == sorted(counts) == ["code", "other", "txt"]
    assert sum(count["documents"] for count in counts.values()) == 4
    assert sum(count["bytes"] for count in counts.values()) == 2 * (0 + 1 + 2 + 3)
    assert counts["txt"] == {"documents": 2, "bytes": 4}
