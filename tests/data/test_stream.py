import itertools
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pmpjax.data import PackedRows, SourceError, token_stream
from pmpjax.data.storage import write_tokens


def sequences(count=60, seed=0, longest=90):
    random = np.random.default_rng(seed)
    return [random.integers(1, 60_000, size).astype(np.uint16) for size in random.integers(1, longest, count)]


@pytest.fixture(scope="module")
def parts():
    return sequences()


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("stream")
    write_tokens(path, "train", parts, 17, lengths=True)
    return path


@pytest.mark.parametrize("length", [1, 2, 7, 64, 500, 1500])
@pytest.mark.parametrize("keep_last", [False, True])
def test_rows_joined_are_the_token_stream(folder, parts, length, keep_last):
    rows = PackedRows(folder, "train", length, keep_last=keep_last)
    stream = np.concatenate(parts)
    inputs, labels = [], []
    for row in (rows[index] for index in range(len(rows))):
        assert row["tokens"].dtype == row["segments"].dtype == np.int32 and row["lengths"].shape == ()
        real = int(row["lengths"])
        assert row["tokens"].shape == row["segments"].shape == (length + 1,) and real >= 2
        assert (row["tokens"][real:] == 0).all() and (row["segments"][real:] == 0).all()
        inputs.append(row["tokens"][: real - 1])
        labels.append(row["tokens"][1:real])
    kept = len(stream) - rows.dropped
    np.testing.assert_array_equal(np.concatenate(inputs), stream[: kept - 1])
    np.testing.assert_array_equal(np.concatenate(labels), stream[1:kept])
    assert rows.tokens == len(stream) and rows.padding == len(rows) * length - (kept - 1)
    assert rows.dropped < 0.02 * len(stream) and (not keep_last or rows.dropped == 0)


@pytest.mark.parametrize("length", [3, 64, 500])
def test_segments_number_the_documents_of_a_row(folder, parts, length):
    rows = PackedRows(folder, "train", length, keep_last=True)
    document = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    for index in range(len(rows)):
        row = rows[index]
        mine = document[index * length : index * length + int(row["lengths"])]
        np.testing.assert_array_equal(row["segments"][: len(mine)], mine - mine[0] + 1)


@pytest.mark.parametrize("rest", [0, 1, 9, 10, 99])
def test_the_last_row_is_left_out_only_where_that_costs_less_than_two_hundredths(tmp_path, rest):
    tokens = 500 + rest + 1
    write_tokens(tmp_path, "x", [np.ones(tokens, np.uint16)], lengths=True)
    rows = PackedRows(tmp_path, "x", 100)
    dropped = rest if rest / tokens < 0.02 else 0
    assert rows.dropped == dropped and len(rows) == 5 + (rest > dropped)


def test_the_waste_of_a_corpus_is_below_two_hundredths(tmp_path):
    write_tokens(tmp_path, "x", sequences(1000, longest=200), lengths=True)
    for length in range(100, 1100, 50):
        rows = PackedRows(tmp_path, "x", length)
        assert (rows.dropped + rows.padding) / rows.tokens < 0.02


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def batches(rows, count, **settings):
    return take(iter(token_stream(rows, **({"batch": 8, "seed": 3, "threads": 0} | settings))), count)


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys() == {"tokens", "lengths", "segments"}
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


@pytest.fixture(scope="module")
def rows(folder):
    return PackedRows(folder, "train", 64)  # about 41 rows: 8 a step cross the epochs' borders


def test_shapes_of_a_batch(rows):
    (found,) = batches(rows, 1)
    assert found["tokens"].shape == found["segments"].shape == (8, 65) and found["lengths"].shape == (8,)
    assert all(value.dtype == np.int32 for value in found.values())


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_all_processes_together_see_the_same_rows_at_each_step(rows, processes):
    alone = batches(rows, 12)
    shares = [batches(rows, 12, process=process, processes=processes) for process in range(processes)]
    for step, whole in enumerate(alone):
        mine = np.concatenate([share[step]["tokens"] for share in shares])
        assert sorted(map(tuple, mine)) == sorted(map(tuple, whole["tokens"]))


def test_each_epoch_has_every_row_once_in_a_new_order(rows):
    count = len(rows)
    found = np.concatenate([batch["tokens"] for batch in batches(rows, count * 2, batch=1)])
    every = sorted(tuple(rows[index]["tokens"]) for index in range(count))
    first, second = found[:count], found[count:]
    assert sorted(map(tuple, first)) == sorted(map(tuple, second)) == every
    assert (first != second).any()


def test_the_seed_decides_the_order_and_threads_do_not(rows):
    same(batches(rows, 7), batches(rows, 7))
    same(batches(rows, 7), batches(rows, 7, threads=3))
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(batches(rows, 7), batches(rows, 7, seed=4)))  # noqa: B905


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 11, 23])
def test_a_resumed_stream_is_the_uninterrupted_one(rows, done, threads):
    whole = batches(rows, done + 4)
    first = iter(token_stream(rows, batch=8, seed=3, threads=threads))
    take(first, done)
    state = first.get_state()
    assert len(json.dumps(state)) < 200
    again = iter(token_stream(rows, batch=8, seed=3, threads=threads))
    take(again, 2)  # wherever it stands
    again.set_state(state)
    same(take(again, 4), whole[done:])


def test_the_position_goes_into_an_orbax_checkpoint(rows, tmp_path):
    iterator = iter(token_stream(rows, batch=8, seed=3))
    take(iterator, 7)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        wanted = take(iterator, 3)
        fresh = iter(token_stream(rows, batch=8, seed=3))
        manager.restore(7, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    same(take(fresh, 3), wanted)


def test_a_position_fits_any_number_of_processes(rows):
    first = iter(token_stream(rows, batch=8, seed=3, threads=0))
    take(first, 5)
    second = iter(token_stream(rows, batch=8, seed=3, process=1, processes=2, threads=0))
    second.set_state(first.get_state())
    mine = {tuple(row) for row in next(second)["tokens"]}
    assert mine < {tuple(row) for row in next(first)["tokens"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 6, "processes": 4}, "batch is 6; it must be a positive multiple of the number of processes, 4"),
        ({"batch": 0}, "batch is 0"),
        ({"processes": 2, "process": 2}, "process is 2"),
    ],
)
def test_numbers_that_do_not_fit_are_named(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        token_stream(rows, **({"batch": 8, "seed": 0} | settings))


def test_a_stream_shorter_than_a_row_is_an_error_with_both_numbers(tmp_path):
    write_tokens(tmp_path, "x", [np.ones(64, np.uint16)], lengths=True)
    with pytest.raises(SourceError, match="has 64 tokens, less than one row of 64"):
        PackedRows(tmp_path, "x", 64)
    assert len(PackedRows(tmp_path, "x", 64, keep_last=True)) == len(PackedRows(tmp_path, "x", 63)) == 1
    with pytest.raises(ValueError, match="length is 0"):
        PackedRows(tmp_path, "x", 0)


def cut(data):
    return data[: len(data) // 2]


def broken_record(data):
    # The first 64 KB hold the headers and the first records; a changed byte in the middle of them is inside a record.
    place = data.index(b"\0" * 16, 4000) // 2
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut, lambda _: b"", lambda _: b"junk" * 1000, None])
def test_a_damaged_or_missing_shard_is_named_at_once(parts, tmp_path, damage):
    write_tokens(tmp_path, "x", parts, 17, lengths=True)
    file = sorted(tmp_path.glob("*.arrayrecord"))[1]
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    with pytest.raises(SourceError, match=rf"{file.name} cannot be read .*prepare the data again"):
        PackedRows(tmp_path, "x", 8)


def test_a_changed_byte_names_file_and_record(parts, tmp_path):
    write_tokens(tmp_path, "x", parts, 17, lengths=True)
    file = sorted(tmp_path.glob("*.arrayrecord"))[1]
    file.write_bytes(broken_record(file.read_bytes()))
    damaged = PackedRows(tmp_path, "x", 8)
    with pytest.raises(SourceError, match=rf"{file.name}: record \d+ cannot be read"):
        list(map(damaged.__getitem__, range(len(damaged))))
    with pytest.raises(SourceError, match=rf"{file.name}: record \d+ cannot be read"):
        list(itertools.islice(iter(token_stream(damaged, batch=1, seed=0)), len(damaged)))


def test_shards_and_lengths_of_another_set_do_not_fit(parts, tmp_path):
    write_tokens(tmp_path, "x", parts, lengths=True)
    write_tokens(tmp_path, "y", parts[1:], lengths=True)
    write_tokens(tmp_path, "z", [part[::2] if len(part) > 80 else part for part in parts], lengths=True)
    write_tokens(tmp_path, "w", parts)
    for file, message in (
        ("y-00000-of-00001.arrayrecord", "has 59 records, its index has 60"),
        ("y.lengths.npy", "has the lengths of 59 documents, the index has 60"),
        ("z.lengths.npy", r"x\.lengths\.npy gives .* tokens, the index"),
    ):
        target = tmp_path / file.replace(file[0], "x", 1)
        before = target.read_bytes()
        target.write_bytes((tmp_path / file).read_bytes())
        with pytest.raises(SourceError, match=message):
            PackedRows(tmp_path, "x", 8)
        target.write_bytes(before)
    (tmp_path / "z-00000-of-00001.arrayrecord").replace(tmp_path / "x-00000-of-00001.arrayrecord")
    other = PackedRows(tmp_path, "x", 8)
    with pytest.raises(SourceError, match=r"record \d+ has \d+ bytes, its index has"):
        list(map(other.__getitem__, range(len(other))))
    with pytest.raises(SourceError, match=r"w\.lengths\.npy cannot be read"):
        PackedRows(tmp_path, "w", 8)
    with pytest.raises(SourceError, match=r"absent\.json is no index"):
        PackedRows(tmp_path, "absent", 8)
