"""A prepared corpus of rows on disk and as arrays: the contract between the data room and the stages of `pds`."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data.documents import Document, SourceError
from pmpjax.data.rows import Rows, document_rows
from pmpjax.data.storage import read_tokens
from pmpjax.data.tokenizer import end_of_document, load_tokenizer
from pmpjax.runs import atomic, fingerprint


class DocumentTable(NamedTuple):
    """The documents of the source, in the order of their rows; document d is written d below.

    Its whole token sequence (text, then the end-of-document token) lies in rows `first_row[d]` to
    `first_row[d] + n_rows[d]` (excluded) of `Prepared.source`: full rows and one last, shorter one; no token is
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

    A *row* (an instance of PDS) holds tokens of one document only, at least one; behind them it is padded with
    `end_of_document`. `pmpjax.data.packed_rows` concatenates the documents that the pretraining stage has chosen.

    Fields:
        tokenizer_path: tokenizer.json of Hugging Face `tokenizers`.
        documents: the source's documents [D].
        source: rows of [R, L] and [R] int32, 0 <= id < vocabulary, ordered by document.
        source_document: [R] int32, index of the row's document in `documents`; never decreasing.
        dev: rows of the desired domain, for the costate.
        test: rows of other modules of the desired domain, on which models are measured and nothing else.
        vocabulary: ids that the tokenizer can give, special tokens included; the size of the embedding.
        end_of_document: id of the special token.
        counts: contents of counts.json, among them duplicates_removed, leaks_removed and rejected_rows.
    """

    tokenizer_path: Path
    documents: DocumentTable
    source: Rows
    source_document: np.ndarray
    dev: Rows
    test: Rows
    vocabulary: int
    end_of_document: int
    counts: dict[str, Any]


def document_index(
    documents: Sequence[Document], sequences: Sequence[np.ndarray], length: int
) -> tuple[pa.Table, dict[str, Any]]:
    """(table, counts): where each document lies among rows of `length` tokens, and how many rows there are.

    The table has the columns id, origin, text, bytes, tokens, first_row and rows; the counts are rows and padding, the
    share of the rows' places that hold no token.
    """
    tokens = np.array([len(sequence) for sequence in sequences], np.int64)
    rows = -(-tokens // length)
    columns = {
        "id": [document.id for document in documents],
        "origin": [document.origin for document in documents],
        "text": [document.text for document in documents],
        "bytes": np.array([len(document.text.encode()) for document in documents], np.int64),
        "tokens": tokens,
        "first_row": np.cumsum(rows) - rows,
        "rows": rows,
    }
    count = int(rows.sum())
    return pa.table(columns), {"rows": count, "padding": float(1 - tokens.sum() / (count * length))}


def write_index(tables: Mapping[str, pa.Table], folder: Path, role: str) -> None:
    """Writes documents.parquet, the first table, and ROLE.parquet, the others with their names in a column `split`."""
    source, *others = tables.items()
    splits = [table.append_column("split", pa.array([name] * len(table))) for name, table in others]
    for name, table in (("documents", source[1]), (role, pa.concat_tables(splits))):
        with atomic(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")


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
    (source, document), (dev, _), (test, _) = (
        document_rows(read_tokens(folder / "tokens", name), counts["length"], end) for name in ("source", "dev", "test")
    )
    path = folder / "documents.parquet"
    table = pq.read_table(path, columns=["id", "origin", "bytes", "tokens", "first_row", "rows"])
    documents = DocumentTable(path, *(column.to_numpy() for column in table.columns))
    if not np.array_equal(np.bincount(document, minlength=len(documents.ids)), documents.n_rows):
        raise SourceError(f"{path} does not fit {folder / 'tokens'}; delete {folder} and prepare the data again")
    return Prepared(
        tokenizer_path=tokenizer_path,
        documents=documents,
        source=source,
        source_document=document,
        dev=dev,
        test=test,
        vocabulary=counts["vocabulary"],
        end_of_document=end,
        counts=counts,
    )


def load_kept(folder: Path) -> Prepared:
    """What the stage `prepare` left in a folder, kept in memory for the next stage.

    The folder is read again as soon as it holds something else, as after `prepare` has been built again.

    Raises:
        RunError: there is no such folder. SourceError: a file in it is missing or does not fit the others.
    """
    return _load_kept(folder, fingerprint(folder))


@functools.lru_cache(maxsize=1)
def _load_kept(folder: Path, content: str) -> Prepared:
    # `content` only tells apart what one folder held at different times. The folder counts too: texts are read from it.
    return load_prepared(folder)
