"""How alike a context and fine-tuning act on a model: the measures of arXiv 2212.10559, layer by layer, in numpy."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from pmpjax.statistics import bootstrap

Kind = Literal["raw", "centred", "softmax"]
KINDS: tuple[Kind, ...] = ("raw", "centred", "softmax")
"""What is compared of scores before the softmax."""


class Share(NamedTuple):
    """A percentage of items.

    Fields:
        value: NaN where there is no item to take it of.
        interval: 95%, by resampled items; None where there are fewer than two.
        items: of which the share is taken.
        reason: why the value is NaN; None where it is a number.
    """

    value: float
    interval: list[float] | None
    items: int
    reason: str | None = None


def rec2ftp(
    zero_shot: Bool[np.ndarray, " n"], in_context: Bool[np.ndarray, " n"], fine_tuned: Bool[np.ndarray, " n"]
) -> Share:
    """100 |zero-shot wrong, fine-tuned right, in-context right| / |zero-shot wrong, fine-tuned right|.

    Args: whether each item is answered correctly.

    >>> right, wrong = np.array([True, True]), np.array([False, False])
    >>> rec2ftp(wrong, np.array([True, False]), right).value
    50.0
    >>> rec2ftp(right, right, right).reason
    'no item is wrong zero-shot and right after fine-tuning'
    """
    recovered = in_context[~zero_shot & fine_tuned].astype(float)
    if not len(recovered):
        return Share(float("nan"), None, 0, "no item is wrong zero-shot and right after fine-tuning")
    interval = None
    if len(recovered) > 1:
        interval = [100 * end for end in bootstrap(lambda drawn: recovered[drawn].mean(axis=1), len(recovered))]
    return Share(100 * float(recovered.mean()), interval, len(recovered))


def sim_aou(
    base: Float[np.ndarray, "layers n d"], one: Float[np.ndarray, "layers n d"], other: Float[np.ndarray, "layers n d"]
) -> Float[np.ndarray, "layers n"]:
    """cos(n(one) - n(base), n(other) - n(base)), n(v) = v / |v|: similarity of the updates of attention's output.

    base is zero-shot, one in-context, other fine-tuned. NaN where an update is zero.

    >>> base, one = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 2.0]]])
    >>> sim_aou(base, one, 3 * one).round(6).tolist()
    [[1.0]]
    """
    start = _normed(base)
    return cosine(_normed(one) - start, _normed(other) - start)


def random_update(base: Float[np.ndarray, "layers n d"], generator: np.random.Generator) -> np.ndarray:
    """A state whose normalised update from `base` has a direction drawn from a centred normal distribution.

    The authors' code draws from [0, 1): all coordinates positive, so that a common mean counts as similarity.
    """
    return _normed(base) + 1e-3 * _normed(generator.normal(size=base.shape))


def sim_am(
    one: Float[np.ndarray, "layers n h t"],
    other: Float[np.ndarray, "layers n h t"],
    asked: Bool[np.ndarray, "n t"],
    kind: Kind = "raw",
) -> Float[np.ndarray, "layers n"]:
    """mean over heads of cos(m, m'), m the scores before the softmax of the query's last token over its own tokens.

    An offset that all scores share makes raw scores similar: "centred" takes each row's mean off, "softmax" compares
    weights within the query. NaN where a row of scores is zero, such as a centred one of a single token.

    Args:
        asked: which of the T columns are tokens of the query.

    >>> scores, asked = np.array([[[[3.0, 4.0]]]]), np.array([[True, True]])
    >>> sim_am(scores, 2 * scores, asked).round(6).tolist()
    [[1.0]]
    """
    rows = [_prepared(part, asked, kind) for part in (one, other)]
    return cosine(*rows).mean(axis=2)


def kendall(
    in_context: Float[np.ndarray, "layers n m"], fine_tuned: Float[np.ndarray, "layers n m"]
) -> Float[np.ndarray, "layers n"]:
    """Kendall's tau between the attention to the demonstrations' tokens and that of fine-tuning.

    Attention in a context is the head-summed score of the query's last token; that of fine-tuning the product
    <q_query, q_token> of query vectors. The softmax over tokens keeps their order, and is left out. NaN below two
    tokens, or where one side is constant.
    """
    found = np.full(in_context.shape[:2], np.nan)
    for at in np.ndindex(found.shape):
        if in_context.shape[2] > 1 and np.ptp(in_context[at]) > 0 and np.ptp(fine_tuned[at]) > 0:
            found[at] = stats.kendalltau(in_context[at], fine_tuned[at])[0]
    return found


def training_attention(
    query: Float[np.ndarray, "layers n f"], trained: Float[np.ndarray, "layers m f"]
) -> Float[np.ndarray, "layers n m"]:
    """<q_query, q_token>, summed over heads: how much a token of the training counts for a query."""
    return np.einsum("lnf,lmf->lnm", query, trained)


def cosine(one: Float[np.ndarray, "*n d"], other: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
    """<a, b> / (|a| |b|) over the last axis; NaN where either is zero."""
    size = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    product = np.sum(one * other, axis=-1)
    return np.divide(product, size, out=np.full(product.shape, np.nan), where=size > 0)


def _normed(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    size = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.divide(values, size, out=np.zeros_like(values), where=size > 0)


def _prepared(scores: np.ndarray, asked: np.ndarray, kind: str) -> np.ndarray:
    scores, there = np.asarray(scores, np.float64), asked[None, :, None, :]
    if kind == "softmax":
        powers = np.where(there, np.exp(scores - np.max(np.where(there, scores, -np.inf), axis=-1, keepdims=True)), 0)
        return powers / powers.sum(axis=-1, keepdims=True)
    if kind == "centred":
        scores = scores - np.where(there, scores, 0).sum(axis=-1, keepdims=True) / there.sum(axis=-1, keepdims=True)
    return np.where(there, scores, 0)
