import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.data import SourceError, load_prepared, load_tokenizer
from pmpjax.data.corpus import STEPS, Preparation, prepare_corpus
from pmpjax.data.storage import read_tokens


class Recorder:
    def __init__(self):
        self.done = 0.0

    def update(self, advance: float = 1, **fields: float | str) -> None:
        self.done += advance


def text(random):
    return " ".join(f"w{i}" for i in random.integers(0, 2000, 40))


def thirds(source, heldout):
    """test, dev and source by the id; the held-out text is test alone."""
    sides = {name: [d for d in source if f":{name}-" in d.id] for name in ("dev", "source")}
    return {"test": heldout, **sides}


@pytest.fixture
def plan(tmp_path):
    """30 texts of the source and 8 of dev in one file, 5 of test in another; copies of each in all later ones."""
    random = np.random.default_rng(0)
    test, dev, source = ([text(random) for _ in range(count)] for count in (5, 8, 30))
    rows = [
        *(("dev", row) for row in (*dev, dev[0].upper(), test[0] + " more")),
        *(("source", row) for row in (*source, source[0], source[1] + " more", test[1], dev[1], dev[2].upper())),
    ]
    lines = [json.dumps({"id": f"{name}-{number}", "text": row}) for number, (name, row) in enumerate(rows)]
    (tmp_path / "pile.jsonl").write_text("\n".join([*lines, "{"]) + "\n")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in test))
    return Preparation(
        (str(tmp_path / "pile.jsonl"),), str(tmp_path / "test.jsonl"), thirds, role="target", length=16, vocabulary=300
    )


def changed(plan, **fields):
    return Preparation(**(vars(plan) | fields))


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_of_two_copies_the_one_in_the_earlier_split_stays(plan, tmp_path):
    bar = Recorder()
    prepare_corpus(plan, tmp_path / "out", bar)
    assert bar.done == STEPS
    counts = load_prepared(tmp_path / "out").counts
    assert [counts[name]["documents"] for name in ("test", "dev", "source")] == [5, 8, 30]
    wanted = {
        "duplicates_removed": 2,
        "exact_duplicates_removed": 1,
        "leaks_removed": 3,
        "dev_leaks_removed": 1,
        "target_duplicates_removed": 1,
        "rejected_rows": 1,
    }
    assert {name: counts[name] for name in wanted} == wanted


def test_an_index_of_rows_and_packed_shards_hold_the_same_documents(plan, tmp_path):
    prepare_corpus(plan, tmp_path / "rows", Recorder())
    prepare_corpus(changed(plan, length=None), tmp_path / "packed", Recorder())
    tokenizer = load_tokenizer(tmp_path / "packed" / "tokenizer.json")
    table = pq.read_table(tmp_path / "rows" / "documents.parquet").to_pydict()
    target = pq.read_table(tmp_path / "rows" / "target.parquet").to_pylist()
    for name in ("source", "dev", "test"):
        packed = [tokenizer.decode(row[:-1].tolist()) for row in read_tokens(tmp_path / "packed" / "tokens", name)]
        indexed = table["text"] if name == "source" else [row["text"] for row in target if row["split"] == name]
        assert sorted(packed) == sorted(indexed)
        # The corpus of packed rows comes in a random order.
        assert (packed == indexed) == (name != "source")
    assert not (tmp_path / "packed" / "documents.parquet").exists()
    np.testing.assert_array_equal(table["first_row"], np.cumsum(table["rows"]) - table["rows"])


def test_a_budget_is_a_seeded_part_of_a_split_and_the_rest_still_counts_as_leaks(plan, tmp_path):
    prepare_corpus(changed(plan, at_most={"test": 500}), tmp_path / "part", Recorder())
    prepare_corpus(plan, tmp_path / "all", Recorder())
    part, whole = (load_prepared(tmp_path / name).counts for name in ("part", "all"))
    assert 1 <= part["test"]["documents"] < 5 and part["test"]["bytes"] <= 500
    assert part["source"] == whole["source"] and part["leaks_removed"] == whole["leaks_removed"]


def test_the_same_bytes_again_even_over_a_killed_attempt(plan, tmp_path):
    prepare_corpus(plan, tmp_path / "out", Recorder())
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    for path in (tmp_path / "again").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])  # a kill in the middle of everything
    prepare_corpus(plan, tmp_path / "again", Recorder())
    assert digests(tmp_path / "again") == digests(tmp_path / "out")


def test_less_than_a_row_and_nothing_left_are_named(plan, tmp_path):
    with pytest.raises(SourceError, match="less than one row of 10000"):
        prepare_corpus(changed(plan, length=10_000), tmp_path / "out", Recorder())
    with pytest.raises(SourceError, match="nothing is left of source"):
        prepare_corpus(
            changed(plan, source=(plan.heldout,), split=lambda a, b: {"test": b, "source": a}), tmp_path, Recorder()
        )


@pytest.mark.parametrize(
    ("name", "value"), [("length", 1), ("vocabulary", 256), ("near_duplicates", 0.3), ("near_duplicates", 1.5)]
)
def test_numbers_out_of_range_are_named_before_anything_is_read(plan, name, value):
    with pytest.raises(SourceError, match=f"{name} is {value}"):
        changed(plan, **{name: value})
