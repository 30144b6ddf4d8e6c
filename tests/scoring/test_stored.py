"""Scores in a file: read once, of these documents, whole."""

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.scoring.stored import StoredScores
from tests.corpora import prepared_corpus


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    prepared = prepared_corpus(folder)
    scores = np.random.default_rng(0).normal(size=len(prepared.documents.ids))
    table = pa.table({"id": list(prepared.documents.ids), "score": scores})
    pq.write_table(table, folder / "scores.parquet", row_group_size=7, write_page_checksum=True)
    return prepared, scores, folder / "scores.parquet"


def test_stored_scores_are_a_method_of_selection_in_double_precision(stored):
    prepared, scores, path = stored
    np.testing.assert_array_equal(StoredScores(path).read(prepared), scores)
    np.testing.assert_allclose(StoredScores(path)(prepared, jax.random.key(0)), scores, rtol=1e-6)


@pytest.mark.parametrize("change", [lambda ids: ids[::-1], lambda ids: ids[:-1], lambda ids: [*ids, "one more"]])
def test_scores_of_other_documents_are_refused(stored, tmp_path, change):
    ids, path = change(list(stored[0].documents.ids)), tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ids, "score": np.arange(len(ids), dtype=float)}), path)
    with pytest.raises(ValueError, match=r"other\.parquet scores other documents .*; delete its folder"):
        StoredScores(path).read(stored[0])


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "another table"])
def test_a_damaged_file_is_refused(stored, tmp_path, damage):
    prepared, _, path = stored
    content, damaged = path.read_bytes(), tmp_path / "scores.parquet"
    middle = content.index(b"PAR1") + 4 + 40  # in the first page
    changes = {"cut": content[:-9], "changed": content[:middle] + b"!!!!" + content[middle + 4 :]}
    if damage in changes:
        damaged.write_bytes(changes[damage])
    elif damage == "another table":
        pq.write_table(pa.table({"id": ["a"]}), damaged)
    with pytest.raises(ValueError, match=r"scores\.parquet cannot be read .*; delete its folder"):
        StoredScores(damaged).read(prepared)
