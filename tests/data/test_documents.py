import numpy as np
import pytest

from pmpjax.data.documents import MAXIMUM_BYTES, chunks, digest, reject_reason


@pytest.mark.parametrize("seed", range(5))
def test_chunks_join_to_the_data_and_lines_are_right(seed):
    random = np.random.default_rng(seed)
    lines = [b"x" * random.integers(0, 40) + (b"\n" if random.random() < 0.9 else b"\n\n") for _ in range(300)]
    data = b"".join(lines)
    found = list(chunks(data, 200))
    assert b"".join(chunk for _, chunk in found) == data
    for line, chunk in found:
        assert data.splitlines(keepends=True)[line - 1 :][0] == chunk.splitlines(keepends=True)[0]
        assert len(chunk) <= 200


def test_a_long_line_is_not_cut():
    assert list(chunks(b"a\n" + b"b" * 500 + b"\nc", 100)) == [(1, b"a\n"), (2, b"b" * 500 + b"\n"), (3, b"c")]


def test_chunks_prefer_blank_lines():
    assert next(chunk for _, chunk in chunks(b"one\ntwo\n\nthree\n" + b"four\n" * 3, 20)) == b"one\ntwo\n\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), (" \n\t", "empty"), (None, "NoneType"), (b"x", "bytes"), ("\ud800 text", "surrogate")],
)
def test_reject_reasons_name_what_is_wrong(text, word):
    assert word in (reject_reason(text) or "")


def test_the_limit_counts_bytes():
    assert reject_reason("a" * MAXIMUM_BYTES) is None
    assert "too long" in (reject_reason("é" * (MAXIMUM_BYTES // 2 + 1)) or "")


def test_digest_separates_its_parts():
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", "")}) == 4
