"""What the stage `prepare` leaves on disk, as arrays: the contract between the data room and the stages of `pds`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pmpjax.data.documents import SourceError
from pmpjax.data.rows import document_rows
from pmpjax.data.storage import read_tokens
from pmpjax.data.tokenizer import end_of_document, load_tokenizer


class DocumentTable(NamedTuple):
    """The documents of the source, in the order of their rows; document d is written d below.

    Its whole token sequence (text, then the end-of-document token) lies in rows `first_row[d]` to
    `first_row[d] + n_rows[d]` (excluded) of `Prepared.source_rows`: full rows and one last, shorter one; no token is
    left out and none is doubled.

    Fields:
        path: the Parquet file (columns id, origin, text, bytes, tokens, first_row, rows), from which texts are read.
        ids: [D] object array of str, unique.
        origins: [D] object array of str, "package:kind:place" for harvested text ("scipy:docstring:scipy.stats.norm"),
            the file and line for files.
        n_bytes: [D] int64, UTF-8 bytes of the text.
        n_tokens: [D] int64, tokens with the end-of-document token; sums to the lengths of the document's rows.
        first_row: [D] int64.
        n_rows: [D] int64, at least 1.
    """

    path: Path
    ids: np.ndarray
    origins: np.ndarray
    n_bytes: np.ndarray
    n_tokens: np.ndarray
    first_row: np.ndarray
    n_rows: np.ndarray

    def texts(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The texts of some documents, in the order asked for; reads the column from disk at each call."""
        column = pq.read_table(self.path, columns=["text"], memory_map=True)["text"]
        return column.take(np.asarray(indices, np.int64)).to_pylist()


class Prepared(NamedTuple):
    """Everything that later stages need from `prepare`.

    A *row* (an instance of PDS) holds tokens of one document only: row r has `source_lengths[r]` tokens (at least 1),
    after which it is padded with `end_of_document`; the padding is no text, so losses must be masked by the lengths
    (`loss_mask`). Documents that the pretraining stage has chosen are concatenated by `pmpjax.data.packed_rows`.

    Fields:
        tokenizer_path: tokenizer.json of Hugging Face `tokenizers`.
        documents: the source's documents [D].
        source_rows: [R, L] int32 token ids, 0 <= id < vocabulary, ordered by document.
        source_lengths: [R] int32.
        source_document: [R] int32, index of the row's document in `documents`; never decreasing.
        dev_rows, dev_lengths: [R_dev, L] int32 and [R_dev] int32: desired domain, for the costate.
        test_rows, test_lengths: the same of other modules of the desired domain, for the verdict alone.
        vocabulary: ids that the tokenizer can give, special tokens included; the size of the embedding.
        end_of_document: id of the special token.
        counts: contents of counts.json, among them duplicates_removed, leaks_removed and rejected_rows.
    """

    tokenizer_path: Path
    documents: DocumentTable
    source_rows: np.ndarray
    source_lengths: np.ndarray
    source_document: np.ndarray
    dev_rows: np.ndarray
    dev_lengths: np.ndarray
    test_rows: np.ndarray
    test_lengths: np.ndarray
    vocabulary: int
    end_of_document: int
    counts: dict[str, Any]


def loss_mask(lengths: np.ndarray, length: int) -> np.ndarray:
    """m[r, i] = 1 if i + 1 < lengths[r]: whether position i of a row predicts a real token, [R, length - 1] float32.

    The labels of `rows[:, :-1]` are `rows[:, 1:]`; a row of one token has no label.

    >>> loss_mask(np.array([3, 1]), 4)
    array([[1., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    return (np.arange(1, length)[None, :] < np.asarray(lengths)[:, None]).astype(np.float32)


def load_prepared(folder: Path | str) -> Prepared:
    """Reads a folder that the stage `prepare` has written.

    Tokens are cut into rows of the length that counts.json names. Raises `SourceError` naming the file that is missing
    or does not fit the others.
    """
    folder = Path(folder)
    counts_path = folder / "counts.json"
    try:
        counts = json.loads(counts_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{counts_path} cannot be read ({error}); run the stage prepare") from error
    tokenizer_path = folder / "tokenizer.json"
    tokenizer = load_tokenizer(tokenizer_path)
    end = end_of_document(tokenizer)
    source, dev, test = (
        document_rows(read_tokens(folder / "tokens", name), counts["length"], end) for name in ("source", "dev", "test")
    )
    path = folder / "documents.parquet"
    table = pq.read_table(path, columns=["id", "origin", "bytes", "tokens", "first_row", "rows"])
    documents = DocumentTable(path, *(column.to_numpy() for column in table.columns))
    if not np.array_equal(np.bincount(source.document, minlength=len(documents.ids)), documents.n_rows):
        raise SourceError(f"{path} does not fit {folder / 'tokens'}; delete {folder} and prepare the data again")
    return Prepared(
        tokenizer_path=tokenizer_path,
        documents=documents,
        source_rows=source.tokens,
        source_lengths=source.lengths,
        source_document=source.document,
        dev_rows=dev.tokens,
        dev_lengths=dev.lengths,
        test_rows=test.tokens,
        test_lengths=test.lengths,
        vocabulary=counts["vocabulary"],
        end_of_document=end,
        counts=counts,
    )
