import json

import pytest

from pmpjax.data import Budget, SourceError, read_source, read_sources


def test_files_are_read_and_rejections_kept(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n{"text": "two"}\n')
    corpus = read_source(str(tmp_path / "a.jsonl"), Budget())
    assert [document.text for document in corpus.documents] == ["one", "two"]
    assert [(item.file, item.line) for item in corpus.rejected] == [((tmp_path / "a.jsonl").as_posix(), 2)]


def test_a_source_without_a_good_row_says_what_was_bad(tmp_path):
    (tmp_path / "a.jsonl").write_text("broken\n")
    with pytest.raises(SourceError, match=r"has no good row, the first bad ones are .*a\.jsonl:1: broken JSON"):
        read_source(str(tmp_path / "a.jsonl"), Budget())
    with pytest.raises(SourceError, match="no source is named"):
        read_sources([], Budget())


def test_ids_are_unique_over_rows_and_sources(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        rows = [{"text": "one", "id": 1}, {"text": "two", "id": 1}]
        (tmp_path / name / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read_sources([str(tmp_path / "x"), str(tmp_path / "y")], Budget())
    assert len({document.id for document in corpus.documents}) == 4


def test_one_package_as_a_source():
    corpus = read_source("installed-docs:Optax", Budget())
    assert set(corpus.packages) == {"optax"} and corpus.packages["optax"]["documents"] == len(corpus.documents)


def test_several_packages_as_a_source():
    corpus = read_source("installed-docs:optax,tyro", Budget())
    assert list(corpus.packages) == ["optax", "tyro"]
    assert {document.origin.partition(":")[0] for document in corpus.documents} == {"optax", "tyro"}
    assert sum(int(found["documents"]) for found in corpus.packages.values()) == len(corpus.documents)
    with pytest.raises(SourceError, match="has no package 'absent'"):
        read_source("installed-docs:optax,absent", Budget())
