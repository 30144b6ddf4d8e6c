"""DSIR against counts by hand."""

import collections
import itertools

import jax
import numpy as np
import pytest

from pmpjax.baselines.dsir import dsir, hashed_ngrams
from pmpjax.data import document_rows
from pmpjax.runs.precision import double_precision

END = 0


def corpus(prepared, source, dev):
    """The prepared data with these documents in place of its own."""
    (rows, document), (target, _) = (document_rows([np.append(d, END) for d in part], 3, END) for part in (source, dev))
    counts = np.bincount(document)
    table = prepared.documents._replace(
        ids=np.array([f"d{i}" for i in range(len(source))], object),
        n_tokens=np.array([len(d) + 1 for d in source]),
        n_rows=counts,
        first_row=np.cumsum(counts) - counts,
    )
    return prepared._replace(
        documents=table,
        source=rows,
        source_document=document,
        dev=target,
        end_of_document=END,
    )


def ngrams(document):
    """Unigrams and bigrams of a document, by hand."""
    document = list(document)
    return collections.Counter([*[(a,) for a in document], *itertools.pairwise(document)])


@pytest.mark.parametrize("mean", [False, True])
def test_a_score_is_the_log_ratio_of_the_bags_over_documents_longer_than_a_row(setting, mean):
    # Rows of three tokens: the bigram (2, 4) of the first document lies across two of them.
    source, dev = [[1, 3, 2, 4, 1], [4, 4], [], [2, 1, 1, 5, 6, 7, 8]], [[1, 3, 2], [2, 4, 1, 3]]
    prepared = corpus(setting.prepared, source, dev)
    of_source, of_dev = (sum(map(ngrams, part), collections.Counter()) for part in (source, dev))
    smooth = 1e-3

    def log_ratio(gram):
        p, q = (bag[gram] / bag.total() + smooth for bag in (of_dev, of_source))
        return np.log(p) - np.log(q)

    expected = [sum(count * log_ratio(gram) for gram, count in ngrams(d).items()) for d in source]
    if mean:
        expected = [value / max(1, ngrams(d).total()) for value, d in zip(expected, source, strict=True)]
    with double_precision():  # so many buckets that no two of these n-grams share one
        found = dsir(buckets=100_003, smoothing=smooth, mean=mean)(prepared, jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_buckets_are_even_tell_orders_and_word_orders_apart_and_are_the_same_in_every_stream():
    for order in (1, 2, 3):
        first, bucket = hashed_ngrams(np.arange(1, 100_001), order, 64, END)
        counts = np.bincount(bucket, minlength=64)
        assert len(first) == 100_001 - order
        assert (np.abs(counts - 100_000 / 64) < 5 * np.sqrt(100_000 / 64)).all()  # five standard deviations
    bucket_of = {
        gram: int(hashed_ngrams(np.array(gram), len(gram), 10**9, END)[1][0]) for gram in [(3,), (3, 4), (4, 3), (3, 3)]
    }
    assert len(set(bucket_of.values())) == 4
    assert hashed_ngrams(np.array([9, 9, 3, 4]), 2, 10**9, END)[1][2] == bucket_of[3, 4]
    for short in ([], [4], [0, 4, 0]):
        assert len(hashed_ngrams(np.array(short, int), 2, 10, END)[0]) == 0


def test_the_targets_language_is_preferred_and_the_test_split_is_not_read(setting):
    prepared = setting.prepared._replace(test=None)
    assert setting.preferred(dsir()(prepared, jax.random.key(0))) == 1
    assert setting.preferred(dsir(mean=True, orders=(2,))(prepared, jax.random.key(0))) > 0.95


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"buckets": 0}, "buckets is 0"),
        ({"orders": (1, 0)}, r"orders\[1\] is 0"),
        ({"orders": ()}, "orders is empty"),
        ({"smoothing": -1.0}, "smoothing is -1.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dsir(**settings)


def test_texts_without_an_n_gram_are_named(setting):
    with pytest.raises(ValueError, match="the target's dev split has no n-gram"):
        dsir()(corpus(setting.prepared, [[1, 2]], [[]]), jax.random.key(0))
    with pytest.raises(ValueError, match=r"the source has no n-gram of \(2,\) tokens"):
        dsir(orders=(2,))(corpus(setting.prepared, [[1], [2]], [[1, 2]]), jax.random.key(0))
