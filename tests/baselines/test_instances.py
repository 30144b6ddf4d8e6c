"""Rows in chunks, documents from rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.baselines.instances import document_scores, row_values
from pmpjax.data import Rows


def test_values_of_rows_do_not_depend_on_the_chunk():
    rows = Rows(np.arange(22).reshape(11, 2), np.full(11, 2))
    for chunk in (1, 4, 11, 50):
        found = row_values(lambda scale, part: scale * jnp.asarray(part.tokens).sum(axis=1), 2.0, rows, chunk)
        np.testing.assert_array_equal(found, 2 * rows.tokens.sum(axis=1))


def test_a_document_has_the_mean_of_its_labels_and_one_without_a_label_the_lowest_score(setting):
    prepared = setting.prepared
    lengths = prepared.source.lengths.copy()
    lengths[prepared.source_document == 5] = 1
    prepared = prepared._replace(source=prepared.source._replace(lengths=lengths))
    values = np.random.default_rng(0).normal(size=len(lengths))
    values[lengths == 1] = np.nan  # no label, no weight
    found = np.asarray(document_scores(prepared, values, "method", "hint"))
    for document in set(range(40)) - {5}:
        rows = np.flatnonzero(prepared.source_document == document)
        labels = np.concatenate([np.full(lengths[row] - 1, values[row]) for row in rows])
        assert found[document] == pytest.approx(labels.mean(), rel=1e-5)
    assert found[5] == np.delete(found, 5).min()
    values[np.flatnonzero(prepared.source_document == 7)[0]] = np.inf
    with pytest.raises(ValueError, match="method: 1 of 40 scores are not finite, the first of document document-7"):
        document_scores(prepared, values, "method", "hint")
