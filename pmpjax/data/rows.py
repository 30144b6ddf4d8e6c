"""Rows: token sequences of one length, and documents cut into them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Rows(NamedTuple):
    """Token sequences, padded to one length: the batch that every loss of a decoder takes.

    Fields:
        tokens: [N, L] integer ids. What follows a row's length is padding, of any id.
        lengths: [N] integers, tokens that are text. The tokens at 1..length-1 are predicted, each from those before it.
        segments: [N, L] integers, for rows in which several documents are packed: tokens see, and are predicted from,
            those with their own number alone. None: one document a row.
    """

    tokens: Any
    lengths: Any
    segments: Any = None

    def take(self, index: Any) -> "Rows":
        """The rows that `index` names, a slice, a mask or integers of any shape: leaves [*index.shape, ...].

        >>> Rows(np.array([[1, 2], [3, 0]]), np.array([2, 1])).take([1, 1]).lengths
        array([1, 1])
        """
        return jax.tree.map(lambda leaf: leaf[index], self)


def document_rows(sequences: Sequence[np.ndarray], length: int, padding: int) -> tuple[Rows, np.ndarray]:
    """Cuts each sequence into rows of its own: n tokens give ceil(n / L) rows, of which the last is padded.

    No row holds two documents, so that the score of a row is a score of one document; the price is the padding.

    Returns:
        Rows of [R, L] and [R] int32, each of one token at least, and [R] int32: the sequence that a row was cut from.

    >>> rows, document = document_rows([np.array([5, 6, 7]), np.array([8])], 2, 0)
    >>> rows.tokens
    array([[5, 6],
           [7, 0],
           [8, 0]], dtype=int32)
    >>> document
    array([0, 0, 1], dtype=int32)
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
    return Rows(tokens, lengths.astype(np.int32)), document.astype(np.int32)
