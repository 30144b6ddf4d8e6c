"""Scores in a Parquet file as a method of selection."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array, Float

from pmpjax.data import Prepared


@dataclasses.dataclass(frozen=True)
class StoredScores:
    """A Parquet of id and score, one line a document in the corpus's order, as a method of selection, whatever the key.

    Attributes:
        path: the file.
    """

    path: Path

    def __call__(self, prepared: Prepared, key: Array) -> Array:
        return jnp.asarray(self.read(prepared))

    def read(self, prepared: Prepared) -> Float[np.ndarray, " documents"]:
        """The scores in float64, from one reading of the file: 8 bytes a document.

        Raises:
            ValueError: the ids are not those of the prepared documents, or the file cannot be read.
        """
        ids, scores, first, same = prepared.documents.ids, [], 0, True
        try:
            file = pq.ParquetFile(self.path, page_checksum_verification=True)
            for batch in file.iter_batches(columns=["id", "score"]):
                same = same and batch["id"].to_pylist() == ids[first : first + len(batch)].tolist()
                scores.append(batch["score"].to_numpy())
                first += len(batch)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{self.path} cannot be read ({error}); delete its folder to score again") from error
        if not same or first != len(ids):
            raise ValueError(
                f"{self.path} scores other documents than the prepared ones; delete its folder to score again"
            )
        return np.concatenate(scores).astype(np.float64)
