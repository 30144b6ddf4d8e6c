import json
import subprocess
import sys

import pytest

from pmpjax.data import Budget, SourceError, read_source
from pmpjax.data.builders import write_tfds
from pmpjax.data.sources.stories import generate_stories

BUDGET = Budget(docstring=60_000, code=40_000, readme=5_000, changelog=1_000, licence=5_000, data=5_000)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return write_tfds("installed-docs", tmp_path_factory.mktemp("tfds"), budget=BUDGET, share=0.2)


def test_documents_come_back_whole_and_split_by_package(installed):
    wanted = read_source("installed-docs", BUDGET).documents
    train, heldout = (read_source(f"tfds:{installed}@{split}", Budget()) for split in ("train", "heldout"))
    assert sorted([*train.documents, *heldout.documents]) == sorted(wanted)
    sides = [{document.origin.partition(":")[0] for document in side.documents} for side in (train, heldout)]
    assert len(sides[1]) >= 2 and not sides[0] & sides[1]
    sizes = [sum(len(document.text.encode()) for document in side.documents) for side in (train, heldout)]
    assert 0.1 * sum(sizes) < sizes[1] <= 0.2 * sum(sizes)


def test_without_tensorflow_in_silence_and_the_same_again(tmp_path):
    code = (
        "import sys; from pmpjax.data.builders import write_tfds; from pmpjax.data import Budget, read_source\n"
        "folder = write_tfds('story-grammar:50', sys.argv[1], name='tales', share=0.2, seed=3)\n"
        "found = read_source(f'tfds:{folder}', Budget()).documents\n"
        "assert 25 < len(found) < 50 and 'tensorflow' not in sys.modules, found\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout and "%" not in ran.stderr
    again = write_tfds("story-grammar:50", tmp_path / "again", name="tales", share=0.2, seed=3)
    for split in ("train", "heldout"):
        found = [read_source(f"tfds:{place}@{split}", Budget()).documents for place in (again, ran_folder(tmp_path))]
        assert found[0] == found[1]


def ran_folder(data_dir):
    return data_dir / "text_corpus" / "tales" / "1.0.0"


def test_tfds_reads_it_by_name(tmp_path):
    import tensorflow_datasets as tfds

    write_tfds(["story-grammar:20"], tmp_path, name="tales")
    rows = tfds.data_source("text_corpus/tales", data_dir=tmp_path, split="train")
    assert {row["text"].decode() for row in rows} < {document.text for document in generate_stories(20, 0)}


def test_what_is_there_is_not_taken_for_something_else(tmp_path):
    write_tfds("story-grammar:20", tmp_path, name="tales")
    with pytest.raises(SourceError, match="is there already"):
        write_tfds("story-grammar:21", tmp_path, name="tales")


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path):
    with pytest.raises(SourceError, match="absent does not exist"):
        write_tfds("absent", tmp_path)
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "words"}) + "\n")
    with pytest.raises(SourceError, match="at least 2 documents"):
        write_tfds(str(tmp_path / "one.jsonl"), tmp_path, name="one")
    assert not list(tmp_path.rglob("*array_record*"))
    for name in ("default", "///"):
        with pytest.raises(SourceError, match=f"{name!r} is no name"):
            write_tfds("story-grammar:20", tmp_path, name=name)
