"""Shards of a corpus: consecutive documents that are scored together, and the Parquet file that each one becomes."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from pmpjax.data import Prepared
from pmpjax.runs import atomic

SCHEMA = pa.schema([("id", pa.string()), ("score", pa.float64()), ("rows", pa.int64()), ("tokens", pa.int64())])
GROUP = 65_536
"""Documents of a row group where the tables of many shards become one file."""

_PLACE = b"pmpjax.rows"


class Shard(NamedTuple):
    """Whole documents, one behind the other; all that a scorer needs to know of a part of a corpus.

    Fields:
        tokens: [R, L] ids, each row of one document, padded at its end.
        lengths: [R] real tokens of each row, at least 1.
        document: [R] index of each row's document in `ids`, 0 to D - 1, never decreasing, each one there.
        ids: [D] names of the documents.
        first_row: index of row 0 in the whole corpus.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    document: np.ndarray
    ids: np.ndarray
    first_row: int = 0

    @property
    def name(self) -> str:
        """File of its scores; names sort in the order of the corpus."""
        return f"rows-{self.first_row:012d}.parquet"


def shard_documents(n_rows: np.ndarray, size: int) -> list[slice]:
    """Cuts documents of `n_rows` rows each into shards of at most `size` rows; a longer document is a shard of its own.

    No document straddles two shards, so that its score needs no other one.

    >>> shard_documents(np.array([2, 2, 1, 9, 1]), 4)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    ends = np.cumsum(n_rows)
    cuts = [0]
    while cuts[-1] < len(n_rows):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, before + size, side="right"))))
    return [slice(first, stop) for first, stop in itertools.pairwise(cuts)]


def prepared_shards(prepared: Prepared, size: int) -> list[Shard]:
    """The source in shards of at most `size` rows; views, no copies."""
    table = prepared.documents
    shards = []
    for part in shard_documents(table.n_rows, size):
        first, last = int(table.first_row[part.start]), part.stop - 1
        rows = slice(first, int(table.first_row[last] + table.n_rows[last]))
        document = prepared.source_document[rows] - part.start
        tokens, lengths = prepared.source.tokens[rows], prepared.source.lengths[rows]
        shards.append(Shard(tokens, lengths, document, table.ids[part], first))
    return shards


def document_table(shard: Shard, row_scores: Float[np.ndarray, " rows"]) -> pa.Table:
    """id, score, rows, tokens of each document, with s_d = sum_r s_r n_r / sum_r n_r over its rows r of n_r tokens.

    >>> rows = Shard(np.zeros((3, 4)), np.array([4, 1, 2]), np.array([0, 0, 1]), np.array(["a", "b"], object))
    >>> document_table(rows, np.array([1.0, 6.0, -1.0])).to_pydict()
    {'id': ['a', 'b'], 'score': [2.0, -1.0], 'rows': [2, 1], 'tokens': [5, 2]}
    """
    total = np.bincount(shard.document, row_scores.astype(np.float64) * shard.lengths)
    return pa.table({**_facts(shard), "score": total / np.bincount(shard.document, shard.lengths)}, SCHEMA)


def write_shard(folder: Path, shard: Shard, table: pa.Table) -> None:
    """Writes the shard's scores atomically, with its rows' range and checksums of the pages, for `read_shard`."""
    with atomic(folder / shard.name) as temporary:
        pq.write_table(table.replace_schema_metadata(_place(shard)), temporary, write_page_checksum=True)


def read_shard(folder: Path, shard: Shard) -> pa.Table | None:
    """The scores that `write_shard` wrote for this very shard; None where there are none that can be trusted.

    A file is trusted when it is whole, its checksums agree, and range of rows, ids, rows and tokens are the shard's.
    """
    path = folder / shard.name
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException):
        return None
    facts = pa.table(_facts(shard), pa.schema([field for field in SCHEMA if field.name != "score"]))
    known = (table.schema.metadata or {}).get(_PLACE) == _place(shard)[_PLACE]
    if not known or not table.schema.equals(SCHEMA) or not table.drop_columns("score").equals(facts):
        return None
    return table.replace_schema_metadata(None)


def write_scores(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes many tables as one file in row groups of at least `GROUP` documents; no more than that is in memory.

    Pages have checksums.
    """
    with (
        atomic(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in _grouped(tables):
            writer.write_table(table)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _facts(shard: Shard) -> dict[str, list[str] | np.ndarray]:
    tokens = np.bincount(shard.document, shard.lengths)
    return {"id": list(shard.ids), "rows": np.bincount(shard.document), "tokens": tokens.astype(np.int64)}


def _place(shard: Shard) -> dict[bytes, bytes]:
    return {_PLACE: json.dumps([shard.first_row, shard.first_row + len(shard.lengths)]).encode()}
