import numpy as np
import pytest

from pmpjax.data.documents import SourceError
from pmpjax.data.storage import read_tokens, write_tokens


def sequences(kind=np.uint16):
    random = np.random.default_rng(0)
    return [random.integers(0, 60_000, size).astype(kind) for size in random.integers(1, 400, 57)]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
@pytest.mark.parametrize("shard", [10, 57, 1000])
def test_tokens_come_back(tmp_path, kind, shard):
    parts = sequences(kind)
    write_tokens(tmp_path, "source", parts, shard)
    found = read_tokens(tmp_path, "source")
    assert len(found) == len(parts) and all(part.dtype == kind for part in found)
    for a, b in zip(found, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(tmp_path.glob("*.arrayrecord"))) == -(-57 // shard)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_tokens(tmp_path / name, "x", sequences())
    files = [sorted(file.read_bytes() for file in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]


def test_a_cut_or_missing_shard_is_named(tmp_path):
    write_tokens(tmp_path, "x", sequences())
    (file,) = tmp_path.glob("*.arrayrecord")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk" * 1000):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=file.name):
            read_tokens(tmp_path, "x")
    file.unlink()
    with pytest.raises(SourceError, match=file.name):
        read_tokens(tmp_path, "x")


def test_a_shard_of_another_set_does_not_fit_the_index(tmp_path):
    write_tokens(tmp_path, "x", sequences())
    write_tokens(tmp_path, "y", sequences()[1:])
    (tmp_path / "y-00000-of-00001.arrayrecord").replace(tmp_path / "x-00000-of-00001.arrayrecord")
    with pytest.raises(SourceError, match="has 56 records"):
        read_tokens(tmp_path, "x")


def test_without_an_index_there_are_no_tokens(tmp_path):
    with pytest.raises(SourceError, match=r"x\.json"):
        read_tokens(tmp_path, "x")


def test_mixed_types_and_no_sequences_are_refused(tmp_path):
    for parts in ([], [np.zeros(2, np.uint16), np.zeros(2, np.uint32)]):
        with pytest.raises(ValueError, match="one type"):
            write_tokens(tmp_path, "x", parts)
