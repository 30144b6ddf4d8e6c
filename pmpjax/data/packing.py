"""Documents to full rows for pretraining: concatenated, then split."""

import numpy as np

from pmpjax.data.prepared import Prepared
from pmpjax.data.rows import document_rows


def packed_rows(prepared: Prepared, documents: np.ndarray, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates documents, in the given order, and splits the stream: rows for pretraining.

    Each document ends with the end-of-document token. Only the last row is padded (with that token): at most L - 1
    places in all.

    Args:
        documents: [D'] indices into `prepared.documents`; a document may come more than once.
        length: tokens of a row; the length of the prepared rows when None.

    Returns:
        rows [R, L] int32 and their lengths [R] int32 (L but for the last one).
    """
    length = int(prepared.source_rows.shape[1]) if length is None else length
    documents = np.asarray(documents, np.int64)
    counts = prepared.documents.n_rows[documents]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    picked = np.repeat(prepared.documents.first_row[documents], counts) + offsets
    rows, lengths = prepared.source_rows[picked], prepared.source_lengths[picked]
    stream = rows[np.arange(rows.shape[1])[None, :] < lengths[:, None]]
    if not len(stream):
        return np.zeros((0, length), np.int32), np.zeros(0, np.int32)
    packed = document_rows([stream], length, prepared.end_of_document)
    return packed.tokens, packed.lengths
