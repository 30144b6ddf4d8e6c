"""DSIR: the importance weight of a document under bags of hashed n-grams of target and source."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pmpjax.baselines.instances import Scorer, check_positive
from pmpjax.data import Prepared
from pmpjax.data.duplicates import splitmix64


def dsir(
    *, buckets: int = 10_000, orders: Sequence[int] = (1, 2), smoothing: float = 1e-8, mean: bool = False
) -> Scorer:
    """s_d = log p(z_d) - log q(z_d) = sum_b z_db (log p_b - log q_b), z_d the hashed n-gram counts of document d.

    p and q are the shares of the buckets among all n-grams of the target's dev split and of the source, each raised by
    `smoothing`. Exponentiated, s is the importance weight of the document. Highest s + Gumbel(0, 1) first is the
    paper's importance resampling without replacement; the stage `select` does that with temperature * (standard
    deviation of s) as the scale of the noise.

    N-grams are of the library's tokens, where the paper takes lower-case words and punctuation. They go across the
    rows of a document, never across its end, and the end-of-document token is in none.

    **Length**: as in the paper the log weights of all n-grams are added, not averaged, which among documents of one
    length (the paper's are chunks of 128 words) is the same. Among documents of different lengths the sum of a longer
    one is further from zero, mostly below it (on installed-docs the rank correlation of score and length is -0.8);
    `mean=True` divides by the number of n-grams. The key is not used: nothing is random.

    Args:
        buckets: of the hash, shared by all orders.
        orders: lengths of the n-grams counted; the paper's are unigrams and bigrams.
        smoothing: added to the shares, against the logarithm of zero.
        mean: weight a n-gram instead of a document.

    Raises:
        ValueError: a setting is not positive, `orders` is empty; when called: the target or the source has no n-gram.

    Source: DSIR (arXiv 2302.03169), section 3, bag of hashed n-grams; constants of its published code.
    """
    check_positive("dsir", buckets=buckets, smoothing=smoothing, **{f"orders[{i}]": n for i, n in enumerate(orders)})
    if not orders:
        raise ValueError("dsir: orders is empty, expected lengths of n-grams such as (1, 2)")

    def shares(counts: np.ndarray, name: str) -> np.ndarray:
        if not counts.any():
            raise ValueError(f"dsir: {name} has no n-gram of {tuple(orders)} tokens; give it longer texts")
        return counts / counts.sum() + smoothing

    def score(prepared: Prepared, key: Array) -> Array:
        end = prepared.end_of_document
        target = [
            hashed_ngrams(_stream(prepared.dev.tokens, prepared.dev.lengths), order, buckets, end) for order in orders
        ]
        stream = _stream(prepared.source.tokens, prepared.source.lengths)
        document = np.repeat(np.arange(len(prepared.documents.ids)), prepared.documents.n_tokens)
        source = [hashed_ngrams(stream, order, buckets, end) for order in orders]
        found = sum(np.bincount(bucket, minlength=buckets) for _, bucket in source)
        desired = sum(np.bincount(bucket, minlength=buckets) for _, bucket in target)
        weight = np.log(shares(np.asarray(desired), "the target's dev split"))
        weight -= np.log(shares(np.asarray(found), "the source"))
        scores, count = np.zeros((2, len(prepared.documents.ids)))
        for first, bucket in source:
            scores += np.bincount(document[first], weight[bucket], minlength=len(scores))
            count += np.bincount(document[first], minlength=len(scores))
        return jnp.asarray(scores / np.maximum(count, 1) if mean else scores)

    return score


def hashed_ngrams(
    stream: Int[np.ndarray, " tokens"], order: int, buckets: int, end: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """(position of the first token, bucket) of each run of `order` tokens in which `end` does not occur.

    The hash depends on the tokens and their number alone: the same n-gram has one bucket in every corpus.

    >>> first, bucket = hashed_ngrams(np.array([5, 6, 0, 5, 6, 7, 0]), 2, 1000, end=0)
    >>> first.tolist(), bool(bucket[0] == bucket[1]), bool(bucket[1] == bucket[2])
    ([0, 3, 4], True, False)
    """
    size = max(0, len(stream) - order + 1)
    code, inside = np.full(size, order, np.uint64), np.ones(size, bool)
    for offset in range(order):
        token = stream[offset : offset + size]
        code = splitmix64(code ^ token.astype(np.uint64))
        inside &= token != end
    first = np.flatnonzero(inside)
    return first, (code[first] % np.uint64(buckets)).astype(np.int64)


def _stream(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All tokens that are text or the end of one, in order."""
    return rows[np.arange(rows.shape[1])[None, :] < lengths[:, None]]
