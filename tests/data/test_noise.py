"""Noise behind a corpus: nothing of the corpus changes, and what is added is long and random as asked."""

import numpy as np
import pytest

from pmpjax.data.noise import with_noise
from tests.corpora import prepared_corpus


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return prepared_corpus(tmp_path_factory.mktemp("noise"))


def test_the_corpus_stays_and_noise_of_the_share_follows(clean):
    noisy, documents = with_noise(clean, 0.1, seed=0), len(clean.documents.ids)
    rows = len(clean.source.tokens)
    np.testing.assert_array_equal(noisy.source.tokens[:rows], clean.source.tokens)
    np.testing.assert_array_equal(noisy.documents.ids[:documents], clean.documents.ids)
    added = noisy.documents.n_tokens[documents:]
    assert 0.1 * clean.documents.n_tokens.sum() <= added.sum() < 0.1 * clean.documents.n_tokens.sum() + added[-1] + 1
    # Each row belongs to its document, and a document's tokens are those of its rows.
    np.testing.assert_array_equal(
        np.bincount(noisy.source_document, noisy.source.lengths), noisy.documents.n_tokens.astype(float)
    )
    np.testing.assert_array_equal(np.bincount(noisy.source_document), noisy.documents.n_rows)


def test_it_ends_as_documents_do_and_depends_on_the_seed_alone(clean):
    one, same, other = (with_noise(clean, 0.1, seed=seed).source for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.tokens, same.tokens)
    assert one.tokens.shape != other.tokens.shape or not np.array_equal(one.tokens, other.tokens)
    rows, last = len(clean.source.tokens), one.lengths[-1] - 1
    assert one.tokens[-1, last] == clean.end_of_document
    full = one.tokens[rows:][one.lengths[rows:] == one.tokens.shape[1]]
    assert len(np.unique(full)) > 0.5 * clean.vocabulary


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_outside_its_range_is_refused(clean, share):
    with pytest.raises(ValueError, match="share"):
        with_noise(clean, share, seed=0)
