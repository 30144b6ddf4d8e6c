"""Rows for pretraining: random access to the packed corpus, and Grain's shuffled stream of batches over them."""

from pathlib import Path
from typing import SupportsIndex

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from pmpjax.data.documents import SourceError
from pmpjax.data.storage import read_index
from pmpjax.runs.errors import first_line

WASTE = 0.02
"""The last, shorter row of a corpus is left out where it holds a smaller share of the tokens, and padded otherwise."""

PREFETCH_BATCHES = 4


class PackedRows:
    """Row r = tokens [r * length, (r + 1) * length + 1) of all documents in stored order, concatenated.

    A row has length + 1 tokens: inputs `tokens[:-1]`, labels `tokens[1:]`, `length` predictions. Neighbours share one
    token, so that each token but the first is predicted exactly once. The documents that a row touches are found by
    binary search in their cumulative lengths and read from the ArrayRecord files then and there; memory holds 8 bytes a
    document and no text. A source of random access for `grain.MapDataset.source`; safe to read from several threads.

    `rows[r]` is a mapping of

        tokens: int32 [length + 1], after `lengths` padded with 0.
        lengths: int32, real tokens: length + 1, less only in the last row of the corpus.
        segments: int32 [length + 1], number of the token's document within the row from 1; 0 for padding.

    Args:
        folder, name: of a set that `pmpjax.data.storage.write_tokens(..., lengths=True)` wrote.
        length: predictions of a row.
        keep_last: pads the last, shorter row whatever it holds: for evaluation, where each token counts. Otherwise the
            row is left out where it holds less than 2% of the corpus (`WASTE`), since padding costs as much as text.

    Attributes:
        tokens: of the corpus.
        dropped: tokens at its end that no row predicts.
        padding: padded predictions of the last row.

    Raises:
        SourceError: the set is missing, a shard is missing, truncated or corrupt (file and record are named), or the
            corpus is shorter than one row.

    >>> import tempfile
    >>> from pmpjax.data.storage import write_tokens
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_tokens(folder, "train", [np.array([5, 6, 0], np.uint16), np.array([7, 8, 9, 0], np.uint16)], lengths=True)
    >>> rows = PackedRows(folder, "train", 3)
    >>> len(rows), rows[1]["tokens"], rows[0]["segments"]
    (2, array([7, 8, 9, 0], dtype=int32), array([1, 1, 1, 2], dtype=int32))
    """

    def __init__(self, folder: Path | str, name: str, length: int, *, keep_last: bool = False) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; a row predicts at least 1 token")
        self._folder, self._name, self._length = Path(folder), name, length
        index = read_index(self._folder, name)
        self._dtype = np.dtype(index["dtype"])
        self._files = [self._folder / shard["file"] for shard in index["shards"]]
        records = [shard["records"] for shard in index["shards"]]
        for file, count in zip(self._files, records, strict=True):
            _check_shard(file, count)
        self._first_record = np.cumsum([0, *records])
        lengths = self._read_lengths(int(self._first_record[-1]))
        self._bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        sums = np.diff(self._bounds[self._first_record])
        for file, shard, found in zip(self._files, index["shards"], sums, strict=True):
            if found != shard["tokens"]:
                raise SourceError(
                    f"{self._lengths_file} gives {file.name} {found} tokens, the index {shard['tokens']}; "
                    "prepare the data again"
                )
        self.tokens = int(self._bounds[-1])
        if self.tokens < (2 if keep_last else length + 1):
            raise SourceError(
                f"{self._folder / name} has {self.tokens} tokens, less than one row of {length} + 1; "
                "give more text or shorter rows"
            )
        full, rest = divmod(self.tokens - 1, length)
        drop = not keep_last and rest < WASTE * self.tokens
        self._count = full + (0 if drop or rest == 0 else 1)
        self.dropped = rest if drop else 0
        self.padding = self._count * length - (self.tokens - 1 - self.dropped)
        self._source = ArrayRecordDataSource([str(file) for file in self._files])

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:  # grain writes it into the state of its checkpoints
        return f"PackedRows({self._name}, tokens={self.tokens}, length={self._length})"

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        row = index.__index__()
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of {self._count}")
        start = row * self._length
        stop = min(start + self._length + 1, self.tokens)
        first, last = np.searchsorted(self._bounds, [start, stop - 1], side="right") - 1
        parts = [
            self._document(number)[max(start - self._bounds[number], 0) : stop - self._bounds[number]]
            for number in range(first, last + 1)
        ]
        tokens = np.zeros(self._length + 1, np.int32)
        segments = np.zeros(self._length + 1, np.int32)
        tokens[: stop - start] = np.concatenate(parts)
        segments[: stop - start] = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
        return {"tokens": tokens, "lengths": np.asarray(stop - start, np.int32), "segments": segments}

    @property
    def _lengths_file(self) -> Path:
        return self._folder / f"{self._name}.lengths.npy"

    def _read_lengths(self, documents: int) -> np.ndarray:
        try:
            lengths = np.load(self._lengths_file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"{self._lengths_file} cannot be read ({error}); prepare the data again") from error
        if lengths.shape != (documents,) or documents == 0:
            raise SourceError(
                f"{self._lengths_file} has the lengths of {lengths.size} documents, the index has {documents}; "
                "prepare the data again"
            )
        return lengths

    def _document(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self._first_record, number, side="right")) - 1
        record = number - int(self._first_record[shard])
        expected = int(self._bounds[number + 1] - self._bounds[number])
        try:
            data = self._source[number]
        except Exception as error:  # the C++ side raises several types
            raise SourceError(
                f"{self._files[shard]}: record {record} cannot be read ({first_line(error)}); prepare the data again"
            ) from error
        if len(data) != expected * self._dtype.itemsize:
            raise SourceError(
                f"{self._files[shard]}: record {record} has {len(data)} bytes, its index has {expected} tokens of "
                f"{self._dtype.itemsize}; prepare the data again"
            )
        return np.frombuffer(data, self._dtype)


def token_stream(
    rows: grain.sources.RandomAccessDataSource,
    *,
    batch: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    threads: int = 2,
) -> grain.IterDataset:
    """Endless batches in an order that (seed, epoch) fixes: step t takes places [t * batch, (t + 1) * batch) of it.

    Process p takes every `processes`-th of these places, so that all processes together see at each step the same set
    of rows, whatever their number, and a checkpoint's position is one integer that fits any of them. Elements are
    mappings of numpy arrays: tokens [B, length + 1], lengths [B], segments [B, length + 1], with B = batch / processes.
    The iterator's `get_state` and `set_state` give and take the position, as `grain.checkpoint` does for Orbax.

    Args:
        batch: rows of a step over all processes; a multiple of `processes`.
        threads: that read ahead; 0 reads when asked.

    >>> stream = token_stream([{"tokens": np.full(2, i)} for i in range(4)], batch=2, seed=0, threads=0)
    >>> next(iter(stream))["tokens"].shape
    (2, 2)
    """
    if not 0 <= process < processes:
        raise ValueError(f"process is {process}; it counts from 0 to processes - 1, and processes is {processes}")
    if batch < 1 or batch % processes:
        raise ValueError(f"batch is {batch}; it must be a positive multiple of the number of processes, {processes}")
    share = batch // processes
    dataset = (
        grain.MapDataset.source(rows)
        .seed(seed)
        .shuffle()
        .repeat()[process::processes]
        .batch(share, drop_remainder=True)
    )
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCH_BATCHES))


def _check_shard(file: Path, records: int) -> None:
    try:
        reader = ArrayRecordReader(str(file))
        found = reader.num_records()
        reader.close()
    except Exception as error:  # the C++ side raises several types
        raise SourceError(f"{file} cannot be read ({first_line(error)}); prepare the data again") from error
    if found != records:
        raise SourceError(f"{file} has {found} records, its index has {records}; prepare the data again")
