"""Rows of one document each: the instances of PDS."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Rows of a fixed length.

    Fields:
        tokens: [R, L] int32, padded at the end.
        lengths: [R] int32, real tokens of each row, at least 1.
        document: [R] int32, index of the sequence that the row was cut from.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    document: np.ndarray


def document_rows(sequences: Sequence[np.ndarray], length: int, padding: int) -> Rows:
    """Cuts each sequence into rows of its own: n tokens give ceil(n / L) rows, of which the last is padded.

    No row holds two documents, so that the worth of a row is worth of one document; the price is the padding.

    >>> document_rows([np.array([5, 6, 7]), np.array([8])], 2, 0).tokens
    array([[5, 6],
           [7, 0],
           [8, 0]], dtype=int32)
    """
    sizes = np.array([len(sequence) for sequence in sequences], np.int64)
    if (sizes == 0).any():
        raise ValueError(f"sequence {int(np.argmin(sizes))} has no token; each document ends with at least one")
    counts = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.minimum(sizes[document] - within * length, length)
    tokens = np.full((len(document), length), padding, np.int32)
    # Row-major order of the unpadded places is the order of the concatenated sequences.
    tokens[np.arange(length)[None, :] < lengths[:, None]] = np.concatenate([*sequences, np.zeros(0, np.int64)])
    return Rows(tokens, lengths.astype(np.int32), document.astype(np.int32))
