import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.data import Budget, SourceError, load_prepared, load_tokenizer
from pmpjax.pds.stages.prepare import STEPS, PrepareConfig, prepare

BUDGET = Budget(docstring=150_000, code=100_000, readme=10_000, changelog=1_000, licence=20_000, data=40_000)
CONFIG = PrepareConfig(vocabulary=600, length=64, budget=BUDGET, dev_bytes=40_000, test_bytes=40_000)
SMALL = PrepareConfig(vocabulary=300, length=32)


class Recorder:
    def __init__(self):
        self.done = 0.0

    def update(self, advance: float = 1, **fields: float | str) -> None:
        self.done += advance


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepare")
    bar = Recorder()
    prepare(CONFIG, ("installed-docs",), "installed-docs:optax", 0, path, bar)
    assert bar.done == STEPS
    return path


@pytest.fixture(scope="module")
def prepared(folder):
    return load_prepared(folder)


def words(text):
    parts = text.lower().split()
    return {tuple(parts[i : i + 5]) for i in range(max(len(parts) - 4, 1))}


def test_rows_are_the_tokens_of_the_documents(folder, prepared):
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    table = prepared.documents
    count = len(table.ids)
    assert len(set(table.ids)) == count == prepared.counts["source"]["documents"]
    np.testing.assert_array_equal(np.bincount(prepared.source_document, prepared.source.lengths), table.n_tokens)
    some = np.random.default_rng(0).permutation(count)[:50]
    for index, text in zip(some, table.texts(some), strict=True):
        rows = slice(table.first_row[index], table.first_row[index] + table.n_rows[index])
        assert (prepared.source_document[rows] == index).all()
        filled = np.arange(CONFIG.length) < prepared.source.lengths[rows, None]
        ids = prepared.source.tokens[rows][filled]
        assert ids[-1] == prepared.end_of_document and tokenizer.decode(ids[:-1].tolist()) == text
        assert len(text.encode()) == table.n_bytes[index]


def test_shapes_types_and_counts(prepared):
    counts = prepared.counts
    for name in ("source", "dev", "test"):
        rows, lengths, _ = getattr(prepared, name)
        assert rows.dtype == np.int32 and rows.shape == (counts[name]["rows"], CONFIG.length)
        assert lengths.shape == rows.shape[:1] and lengths.min() >= 1 and lengths.max() <= CONFIG.length
        assert 0 <= rows.min() and rows.max() < prepared.vocabulary == 600
        assert counts[name]["tokens"] == lengths.sum()
        assert counts[name]["padding"] == pytest.approx(1 - lengths.sum() / rows.size)
    assert {"duplicates_removed", "leaks_removed", "rejected_rows", "test_overlap"} <= set(counts)
    assert sum(kind["documents"] for kind in counts["by_kind"].values()) == counts["source"]["documents"]
    assert counts["dev"]["bytes"] <= CONFIG.dev_bytes and counts["test"]["bytes"] <= CONFIG.test_bytes


def test_nothing_of_the_target_is_in_the_source(folder, prepared):
    source = pq.read_table(folder / "documents.parquet").to_pylist()
    target = pq.read_table(folder / "target.parquet").to_pylist()
    assert not any(row["origin"].startswith("optax:") for row in source)
    assert all(row["origin"].startswith("optax:docstring:") for row in target)
    assert not {" ".join(row["text"].lower().split()) for row in source} & {
        " ".join(row["text"].lower().split()) for row in target
    }
    # Brute force over all pairs that share a word sequence at all.
    places = {}
    sets = [words(row["text"]) for row in source]
    for index, found in enumerate(sets):
        for shingle in found:
            places.setdefault(shingle, []).append(index)
    for row in target:
        mine = words(row["text"])
        for other in {index for shingle in mine for index in places.get(shingle, ())}:
            assert len(mine & sets[other]) / len(mine | sets[other]) < CONFIG.near_duplicates, (
                row["id"],
                source[other]["id"],
            )


def test_no_module_is_in_dev_and_in_test(folder):
    sides = {"dev": set(), "test": set()}
    for row in pq.read_table(folder / "target.parquet").to_pylist():
        sides[row["split"]].add(row["id"].rsplit(":", 2)[0])
    assert sides["dev"] and sides["test"] and not sides["dev"] & sides["test"]


@pytest.fixture
def pile(tmp_path):
    """Local data: 30 rows, of which 3 repeat, 2 copy the target and 3 are bad; the target has 20 rows in 4 files."""
    random = np.random.default_rng(0)

    def text():
        return " ".join(f"w{i}" for i in random.integers(0, 2000, 40))

    (tmp_path / "target").mkdir()
    targets = [text() for _ in range(20)]
    for part in range(4):
        lines = [json.dumps({"text": row}) + "\n" for row in targets[part::4]]
        (tmp_path / "target" / f"{part}.jsonl").write_text("".join(lines))
    fresh = [text() for _ in range(22)]
    near = targets[5].rsplit(" ", 1)[0] + " changed"
    rows = [*fresh, fresh[0], fresh[1].upper(), fresh[2].rsplit(" ", 1)[0], targets[0], near]
    lines = [json.dumps({"text": row}) for row in rows]
    lines[3:3] = ['{"text": 1}', "{", '{"text": ""}']
    (tmp_path / "pile.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def prepare_pile(pile, folder):
    prepare(SMALL, (str(pile / "pile.jsonl"),), str(pile / "target"), 0, folder, Recorder())


def test_local_files_with_copies_leaks_and_bad_rows(pile, tmp_path):
    prepare_pile(pile, tmp_path / "out")
    found = load_prepared(tmp_path / "out")
    wanted = {"duplicates_removed": 3, "exact_duplicates_removed": 2, "leaks_removed": 2, "rejected_rows": 3}
    assert {key: found.counts[key] for key in wanted} == wanted
    assert found.counts["source"]["documents"] == 22 and found.counts["dev"]["groups"] == 2
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(item["file"], item["line"]) for item in rejected] == [
        ((pile / "pile.jsonl").as_posix(), n) for n in (4, 5, 6)
    ]


def test_a_copy_between_dev_and_test_is_dropped_from_dev(pile, tmp_path):
    rows = [json.loads((pile / "target" / f"{part}.jsonl").read_text().splitlines()[0])["text"] for part in range(4)]
    for part in range(4):
        with (pile / "target" / f"{part}.jsonl").open("a") as file:
            file.writelines(json.dumps({"text": row + " more"}) + "\n" for row in rows)
    prepare_pile(pile, tmp_path / "out")
    counts = load_prepared(tmp_path / "out").counts
    # Of 4 rows and 16 near-copies, all are one of 4 texts, and each of these has its first reading in test.
    assert (counts["dev"]["documents"], counts["test"]["documents"]) == (8, 12)
    assert counts["dev_leaks_removed"] == 10 and counts["target_duplicates_removed"] == 6


@pytest.mark.parametrize(
    ("name", "value"), [("length", 1), ("vocabulary", 256), ("near_duplicates", 0.3), ("near_duplicates", 1.5)]
)
def test_numbers_out_of_range_are_named_before_anything_is_read(tmp_path, name, value):
    with pytest.raises(SourceError, match=f"{name} is {value}"):
        prepare(PrepareConfig(**{name: value}), ("absent",), "absent", 0, tmp_path, Recorder())


@pytest.mark.parametrize("name", ["counts.json", "tokenizer.json", "tokens/source.json", "tokens/dev.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(SourceError, match=name.rpartition("/")[2]):
        load_prepared(tmp_path / "copy")


def test_an_index_of_other_tokens_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    table = pq.read_table(folder / "documents.parquet")
    pq.write_table(table.slice(1), tmp_path / "copy" / "documents.parquet")
    with pytest.raises(SourceError, match="does not fit"):
        load_prepared(tmp_path / "copy")
