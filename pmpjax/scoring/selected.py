"""The text of selected documents as lines of JSON, a few texts in memory at a time."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data import DocumentTable
from pmpjax.runs import atomic


def write_selected(
    path: Path, table: DocumentTable, documents: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> None:
    """One line of JSON a document, in the order given: id, origin, score, times, text.

    Texts lie in the corpus's order: their lines go to a nameless file as they come, and from there to their places.
    """
    order = np.argsort(documents, kind="stable")
    begins, sizes = np.zeros(len(documents), np.int64), np.zeros(len(documents), np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as lines, atomic(path) as temporary, open(temporary, "wb") as file:
        for place, text in zip(order, _texts(table, documents[order]), strict=True):
            document = documents[place]
            line = {
                "id": table.ids[document],
                "origin": table.origins[document],
                "score": float(scores[place]),
                "times": int(counts[place]),
                "text": text,
            }
            begins[place] = lines.tell()
            sizes[place] = lines.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
            lines.seek(begin)
            file.write(lines.read(size))


def _texts(table: DocumentTable, documents: np.ndarray) -> Iterator[str]:
    """The texts of documents of increasing index, from one reading of the column."""
    first = 0
    for batch in pq.ParquetFile(table.path).iter_batches(1024, columns=["text"]):
        wanted = documents[np.searchsorted(documents, first) : np.searchsorted(documents, first + len(batch))]
        yield from batch["text"].take(pa.array(wanted - first)).to_pylist()
        first += len(batch)
