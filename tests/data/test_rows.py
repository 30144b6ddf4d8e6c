import numpy as np
import pytest

from pmpjax.data import DocumentTable, Prepared, Rows, document_rows, packed_rows


def sequences(seed=0, count=40):
    random = np.random.default_rng(seed)
    return [random.integers(1, 500, size).astype(np.uint16) for size in random.integers(1, 50, count)]


def prepared_from(parts, length, tmp_path):
    rows, document = document_rows(parts, length, 0)
    counts = np.bincount(document)
    names = np.array([str(i) for i in range(len(parts))], object)
    sizes = np.array([len(part) for part in parts])
    table = DocumentTable(tmp_path, names, names, sizes, sizes, np.cumsum(counts) - counts, counts)
    empty = Rows(np.zeros((0, length), np.int32), np.zeros(0, np.int32))
    return Prepared(tmp_path, table, rows, document, empty, empty, 500, 0, {})


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_rows_lose_no_token_and_hold_one_document(length):
    parts = sequences()
    rows, document = document_rows(parts, length, 0)
    assert rows.tokens.shape == (sum(-(-len(part) // length) for part in parts), length)
    for index, part in enumerate(parts):
        mine = document == index
        flat = np.concatenate([row[:size] for row, size in zip(rows.tokens[mine], rows.lengths[mine], strict=True)])
        np.testing.assert_array_equal(flat, part)
        assert (rows.lengths[mine][:-1] == length).all()
    assert (rows.tokens[np.arange(length) >= rows.lengths[:, None]] == 0).all() and (rows.lengths > 0).all()
    assert (np.diff(document) >= 0).all()


def test_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="sequence 1 has no token"):
        document_rows([np.array([1]), np.array([], int)], 4, 0)


def test_no_sequences_no_rows():
    assert document_rows([], 4, 0)[0].tokens.shape == (0, 4)


@pytest.mark.parametrize("length", [None, 5, 33])
@pytest.mark.parametrize("chosen", [[0], [5, 3, 3, 39], list(range(40))[::-1], []])
def test_packed_rows_are_the_stream_of_the_chosen_documents(length, chosen, tmp_path):
    parts = sequences()
    rows, lengths, _ = packed_rows(prepared_from(parts, 8, tmp_path), np.array(chosen, np.int64), length)
    stream = np.concatenate([*(parts[i] for i in chosen), np.zeros(0, np.uint16)])
    assert rows.shape[1] == (length or 8) and lengths.sum() == len(stream)
    np.testing.assert_array_equal(rows.ravel()[: len(stream)], stream)
    assert (rows.ravel()[len(stream) :] == 0).all() and rows.size - len(stream) < rows.shape[1]
    assert (lengths[:-1] == rows.shape[1]).all()
