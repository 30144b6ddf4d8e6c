"""Shards: where they are cut, and that a file which is not the right one is never taken for it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.scoring import shards
from pmpjax.scoring.shards import Shard, document_table, read_shard, shard_documents, write_scores, write_shard


@pytest.mark.parametrize("size", [1, 5, 12, 1000])
def test_shards_hold_whole_documents_in_their_order_and_no_more_rows_than_asked(size):
    n_rows = np.random.default_rng(0).integers(1, 9, 70)
    parts = shard_documents(n_rows, size)
    assert np.concatenate([np.arange(70)[part] for part in parts]).tolist() == list(range(70))
    for part, following in zip(parts, [*parts[1:], slice(70, 70)], strict=True):
        held = n_rows[part].sum()
        assert held <= size or part.stop - part.start == 1
        assert following.start == 70 or held + n_rows[following.start] > size


def example(first_row=7, names=("a", "b", "é")):
    document = np.array([0, 0, 1, 2, 2, 2])
    lengths = np.array([4, 1, 3, 4, 4, 2])
    return Shard(np.zeros((6, 4), np.int32), lengths, document, np.array(names, object), first_row)


def test_a_documents_score_is_the_mean_over_its_tokens():
    shard, scores = example(), np.random.default_rng(0).normal(size=6).astype(np.float32)
    table = document_table(shard, scores).to_pydict()
    for index in range(3):
        rows = np.flatnonzero(shard.document == index)
        by_token = np.concatenate([np.full(shard.lengths[row], scores[row], np.float64) for row in rows])
        assert table["score"][index] == pytest.approx(by_token.mean(), rel=1e-12)
        assert (table["rows"][index], table["tokens"][index]) == (len(rows), len(by_token))


def test_what_is_written_is_read_back_for_this_shard_alone(tmp_path):
    shard = example()
    table = document_table(shard, np.arange(6, dtype=np.float32))
    write_shard(tmp_path, shard, table)
    assert read_shard(tmp_path, shard).equals(table)
    moved = example(first_row=8)
    renamed = example(names=("a", "c", "é"))
    longer = shard._replace(lengths=shard.lengths + (shard.lengths < 4))
    (tmp_path / moved.name).write_bytes((tmp_path / shard.name).read_bytes())
    assert all(read_shard(tmp_path, other) is None for other in (moved, renamed, longer, example(first_row=9)))


def test_no_byte_can_change_unnoticed(tmp_path):
    shard = example()
    table = document_table(shard, np.arange(6, dtype=np.float32))
    write_shard(tmp_path, shard, table)
    path = tmp_path / shard.name
    whole = path.read_bytes()
    trusted = 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = read_shard(tmp_path, shard)
        assert found is None or found.equals(table)
        trusted += found is not None
        if place % 25 == 0:
            path.write_bytes(whole[:place])
            assert read_shard(tmp_path, shard) is None
    assert trusted < len(whole) / 10  # statistics and the like


def test_one_file_of_many_shards_has_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP", 7)
    tables = [document_table(example(first_row), np.full(6, float(first_row))) for first_row in range(5)]
    write_scores(tmp_path / "scores.parquet", iter(tables))
    assert pq.read_table(tmp_path / "scores.parquet").equals(pa.concat_tables(tables))
    assert pq.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 2
