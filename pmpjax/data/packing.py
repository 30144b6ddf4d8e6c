"""Documents to full rows for pretraining: concatenated, then split."""

import numpy as np

from pmpjax.data.prepared import Prepared
from pmpjax.data.rows import Rows, document_rows


def packed_rows(prepared: Prepared, documents: np.ndarray, length: int | None = None) -> Rows:
    """Concatenates documents, in the given order, and splits the stream: rows for pretraining.

    Each document ends with the end-of-document token. Only the last row is padded (with that token): at most L - 1
    places in all.

    Args:
        documents: [D'] indices into `prepared.documents`; a document may come more than once.
        length: tokens of a row; the length of the prepared rows when None.

    Returns:
        Rows of [R, L] and [R] int32, all of L tokens but the last one.
    """
    length = int(prepared.source.tokens.shape[1]) if length is None else length
    documents = np.asarray(documents, np.int64)
    counts = prepared.documents.n_rows[documents]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    picked = np.repeat(prepared.documents.first_row[documents], counts) + offsets
    rows = prepared.source.take(picked)
    stream = rows.tokens[np.arange(rows.tokens.shape[1])[None, :] < rows.lengths[:, None]]
    return document_rows([stream] if len(stream) else [], length, prepared.end_of_document)[0]
