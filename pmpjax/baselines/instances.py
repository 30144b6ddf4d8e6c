"""What baselines share: the signature of a scorer, rows in chunks of one shape, documents from their rows."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pmpjax.data import Prepared, Rows
from pmpjax.train.heldout import in_chunks

Scorer = Callable[[Prepared, Array], Array]
"""(prepared, key) -> [D], one score for each document of the source in their order; the highest are kept.

PDS's score and every baseline have this signature, so that selection and pretraining treat them alike. The key is the
method's only randomness. Scores are finite; their scale does not matter, for selection standardises them.
"""


def source_rows(prepared: Prepared) -> Rows:
    """All rows of the source, [R, L]."""
    return prepared.source


def dev_rows(prepared: Prepared) -> Rows:
    """The rows of the target's dev split that have a label; the test split is for the evaluation alone.

    Raises:
        ValueError: none has.
    """
    return with_labels(prepared.dev, "the target's dev split")


def with_labels(rows: Rows, name: str) -> Rows:
    """The rows of two tokens or more; ValueError when there are none."""
    kept = np.flatnonzero(np.asarray(rows.lengths) > 1)
    if not len(kept):
        raise ValueError(f"{name} has {len(rows.lengths)} rows, none of two tokens or more; give it longer texts")
    return Rows(np.asarray(rows.tokens)[kept], np.asarray(rows.lengths)[kept])


def row_values(function: Callable[[Any, Rows], Array], operands: Any, rows: Rows, chunk: int) -> np.ndarray:
    """function(operands, rows) -> one number a row, `chunk` rows at a time: [R].

    The function is jitted by the caller, who so keeps its compilation from one call to the next.
    """
    chunks = in_chunks(rows, chunk)
    parts = [
        np.asarray(function(operands, Rows(tokens, lengths)))
        for tokens, lengths in zip(chunks.tokens, chunks.lengths, strict=True)
    ]
    return np.concatenate(parts)[: len(rows.lengths)]


def document_scores(prepared: Prepared, values: np.ndarray, method: str, hint: str) -> Float[Array, " documents"]:
    """s_d = sum_r m_r v_r / sum_r m_r over the rows r of document d, with m_r their labels (tokens less one): [D].

    What is linear in a row's mean loss becomes that of the document's mean loss per label. A document of one token
    has no label: it gets the lowest score of the others.

    Args:
        values: [R], one for each row of the source.
        method, hint: named in the error.

    Raises:
        ValueError: a score is not finite, or no document has a label.
    """
    documents = len(prepared.documents.ids)
    labels = prepared.source.lengths.astype(np.float64) - 1
    total = np.bincount(prepared.source_document, labels, minlength=documents)
    if not total.any():
        raise ValueError(f"{method}: no document of the source has two tokens; give it longer texts")
    weighted = np.where(labels > 0, values.astype(np.float64), 0.0) * labels
    scores = np.bincount(prepared.source_document, weighted, minlength=documents) / np.maximum(total, 1)
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(
            f"{method}: {len(bad)} of {documents} scores are not finite, the first of document "
            f"{prepared.documents.ids[bad[0]]}; {hint}"
        )
    return jnp.asarray(np.where(total > 0, scores, scores[total > 0].min()))


def check_positive(method: str, **settings: float | int) -> None:
    """ValueError naming the first setting that is not positive.

    >>> check_positive("dsir", buckets=0)
    Traceback (most recent call last):
    ValueError: dsir: buckets is 0, expected a positive number
    """
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{method}: {name} is {value}, expected a positive number")
