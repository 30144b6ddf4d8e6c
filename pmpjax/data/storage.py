"""Token sequences in ArrayRecord files: one record a document, little-endian ids, and an index beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pmpjax.data.documents import SourceError

SHARD_DOCUMENTS = 65_536


def write_tokens(
    folder: Path, name: str, sequences: Sequence[np.ndarray], shard: int = SHARD_DOCUMENTS, *, lengths: bool = False
) -> None:
    """Writes folder/name-00000-of-00001.arrayrecord, ... and folder/name.json (type, records and tokens of each shard).

    The index is written last: tokens without an index are a half-written set. All sequences have one unsigned type.

    Args:
        shard: documents of a file.
        lengths: also writes folder/name.lengths.npy, the tokens of each document: what `pmpjax.data.PackedRows` needs
            to find a row without reading the documents before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {sequence.dtype.str for sequence in sequences}
    if len(kinds) != 1:
        raise ValueError(f"sequences must be at least one and of one type, found types {sorted(kinds) or 'none'}")
    total = -(-len(sequences) // shard)
    shards = []
    for number in range(total):
        part = sequences[number * shard : (number + 1) * shard]
        file = f"{name}-{number:05d}-of-{total:05d}.arrayrecord"
        writer = ArrayRecordWriter(
            str(folder / file), "group_size:1"
        )  # one record a group: random access reads no more
        for sequence in part:
            writer.write(sequence.tobytes())
        writer.close()
        shards.append({"file": file, "records": len(part), "tokens": int(sum(map(len, part)))})
    if lengths:
        np.save(folder / f"{name}.lengths.npy", np.array([len(sequence) for sequence in sequences], np.uint32))
    content = json.dumps({"dtype": kinds.pop(), "shards": shards}, indent=2)
    (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The index of a set: its `dtype`, and `file`, `records` and `tokens` of each of its `shards`, in stored order.

    Raises `SourceError` where folder/name.json is missing or no index.
    """
    path = folder / f"{name}.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        np.dtype(index["dtype"])
        [(shard["file"], shard["records"], shard["tokens"]) for shard in index["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is no index of tokens ({error}); prepare the data again") from error
    return index


def read_tokens(folder: Path, name: str) -> list[np.ndarray]:
    """Reads back what `write_tokens` wrote; raises `SourceError` naming a file that does not fit the index."""
    index = read_index(folder, name)
    sequences: list[np.ndarray] = []
    for shard in index["shards"]:
        file = folder / shard["file"]
        try:
            reader = ArrayRecordReader(str(file))
            records = reader.read_all()
            reader.close()
        except Exception as error:  # the C++ side raises several types
            raise SourceError(f"{file} cannot be read ({error}); prepare the data again") from error
        part = [np.frombuffer(record, index["dtype"]) for record in records]
        tokens = int(sum(map(len, part)))
        if (len(part), tokens) != (shard["records"], shard["tokens"]):
            raise SourceError(
                f"{file} has {len(part)} records of {tokens} tokens, its index has {shard['records']} of "
                f"{shard['tokens']}; prepare the data again"
            )
        sequences += part
    return sequences
