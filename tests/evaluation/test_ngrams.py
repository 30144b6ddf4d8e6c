import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from pmpjax.data import train_tokenizer
from pmpjax.data.sources.stories import generate_stories
from pmpjax.data.tokenizer import encode
from pmpjax.evaluation.ngrams import KneserNey, _discounts, bits_per_byte

END = 0


def documents_of(tokens):
    """The documents as tuples, each with its end and with an end before it."""
    places = np.flatnonzero(np.asarray(tokens) == END)
    return [(END, *map(int, part)) for part in np.split(np.asarray(tokens), places + 1) if len(part)]


class Reference:
    """The textbook's recursion in dictionaries, one n-gram at a time."""

    def __init__(self, tokens, order, vocabulary):
        self.vocabulary, self.order = vocabulary, order
        occurrences = Counter()
        for document in documents_of(tokens):
            for place, length in itertools.product(range(1, len(document)), range(1, order + 1)):
                if place - length + 1 >= 0:
                    occurrences[document[place - length + 1 : place + 1]] += 1
        before = defaultdict(set)
        for gram in occurrences:
            if len(gram) > 1:
                before[gram[1:]].add(gram[0])
        self.counts = {
            gram: len(before[gram]) if len(gram) < order and before[gram] else count
            for gram, count in occurrences.items()
            if len(gram) == order or before[gram] or len(gram) > 1
        }
        self.discounts = {
            length: _discounts(np.array([count for gram, count in self.counts.items() if len(gram) == length]))
            for length in range(1, order + 1)
        }
        self.following = defaultdict(list)
        for gram, count in self.counts.items():
            self.following[gram[:-1]].append(count)

    def probability(self, history, token):
        found = self.following[history]
        shorter = self.probability(history[1:], token) if history else 1 / self.vocabulary
        if not found:
            return shorter
        discount = self.discounts[len(history) + 1]
        count = self.counts.get((*history, token), 0)
        taken = sum(discount[min(other, 3)] for other in found)
        return (count - discount[min(count, 3)] + taken * shorter) / sum(found)

    def losses(self, tokens):
        return [
            -math.log(self.probability(document[max(0, place - self.order + 1) : place], document[place]))
            for document in documents_of(tokens)
            for place in range(1, len(document))
        ]


def stream(seed, count, vocabulary, skew=1.5):
    """Documents of skewed, dependent tokens: repeats at all orders, and tokens that never come."""
    random = np.random.default_rng(seed)
    tokens = [END]
    for _ in range(count):
        tokens.append((tokens[-1] * 3 + int(random.zipf(skew))) % vocabulary)
    return np.array([*tokens[1:], END], np.uint16)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("seed", "count", "vocabulary"), [(0, 300, 7), (1, 600, 40), (2, 5, 6)])
def test_losses_are_those_of_the_recursion(order, seed, count, vocabulary):
    train, test = stream(seed, count, vocabulary), stream(seed + 10, 200, vocabulary)
    model = KneserNey.fit(train, order, vocabulary=vocabulary, end_of_document=END)
    reference = Reference(train, order, vocabulary)
    for tokens in (train, test):
        np.testing.assert_allclose(model.losses(tokens), reference.losses(tokens), rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_history(order):
    vocabulary = 12
    model = KneserNey.fit(stream(0, 400, vocabulary), order, vocabulary=vocabulary, end_of_document=END)
    random = np.random.default_rng(0)
    seen = stream(0, 400, vocabulary)
    histories = [[], [END], [3, END], *(list(random.integers(0, vocabulary, 6)) for _ in range(30))]
    histories += [list(seen[start : start + 6]) for start in range(0, 300, 10)]
    for history in histories:
        losses = [model.losses(np.array([*history, token]))[-1] for token in range(vocabulary)]
        assert math.isclose(float(np.exp(-np.array(losses)).sum()), 1, rel_tol=1e-12)


def test_order_one_in_closed_form():
    counts = np.array([1, 1, 2, 2, 3, 4, 0])
    model = KneserNey.fit(np.repeat(np.arange(7), counts)[::-1], 1, vocabulary=7, end_of_document=END)
    # Two tokens come once, two twice, one three times, one four times: Y = 2 / (2 + 4) = 1/3.
    # D1 = 1 - 2/3 * 2/2, D2 = 2 - 3/3 * 1/2, D3 = 3 - 4/3 * 1/1.
    discounts = np.array([1 / 3, 1 / 3, 3 / 2, 3 / 2, 5 / 3, 5 / 3, 0])
    wanted = (counts - discounts) / 13 + discounts.sum() / 13 / 7
    np.testing.assert_allclose(model.unigrams, wanted, rtol=1e-12)
    np.testing.assert_allclose(np.exp(-model.losses(np.arange(7))), wanted, rtol=1e-12)


def test_a_tiny_example_by_hand():
    # "a b", "a b", "a c" with a = 1, b = 2, c = 3, end $ = 0. No n-gram comes four times: D = 1/2, 1, 3/2.
    tokens = np.array([1, 2, 0, 1, 2, 0, 1, 3, 0])
    model = KneserNey.fit(tokens, 2, vocabulary=4, end_of_document=END)
    # Different tokens before: $ 2 (b, c), a 1 ($), b 1 (a), c 1 (a).
    unigram = np.array([2 - 1, 1 - 0.5, 1 - 0.5, 1 - 0.5]) / 5 + (1 + 3 * 0.5) / 5 / 4
    np.testing.assert_allclose(model.unigrams, unigram, rtol=1e-12)
    after_a = (1 + 0.5) / 3  # ab comes twice, ac once
    wanted = [
        (2 - 1) / 3 + after_a * unigram[2],  # ab
        (1 - 0.5) / 3 + after_a * unigram[3],  # ac
        after_a * unigram[1],  # aa, never seen
    ]
    found = [np.exp(-model.losses(np.array([1, token]))[1]) for token in (2, 3, 1)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_history_ends_with_its_document():
    train = stream(0, 500, 9)
    model = KneserNey.fit(train, 4, vocabulary=9, end_of_document=END)
    tail = np.array([4, 2, 7, END])
    for head in ([END], [3, 5, END], [4, 4, 4, END]):
        np.testing.assert_array_equal(model.losses(np.array([*head, *tail]))[-4:], model.losses(tail))


@pytest.fixture(scope="module")
def text():
    texts = [document.text for document in generate_stories(700, seed=0)]
    tokenizer = train_tokenizer(texts[:600], 500)
    train, test = (np.concatenate(encode(tokenizer, part)) for part in (texts[:600], texts[600:]))
    return train, test, sum(len(part.encode()) for part in texts[600:])


def test_longer_histories_predict_text_better(text):
    train, test, size = text
    found = []
    for order in (1, 2, 3, 5):
        losses = KneserNey.fit(train, order, vocabulary=500, end_of_document=END).losses(test)
        assert losses.shape == test.shape and losses.min() > 0
        found.append(bits_per_byte(losses.sum(), size))
    assert found == sorted(found, reverse=True) and found[0] > 2 > 1.5 > found[-1]


def test_fit_is_deterministic(text):
    train, test, _ = text
    a, b = (KneserNey.fit(train, 5, vocabulary=500, end_of_document=END) for _ in range(2))
    np.testing.assert_array_equal(a.losses(test), b.losses(test))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order is 0"),
        ({"tokens": np.array([1, 9])}, "ids are from 1 to 9; the vocabulary ends before 9"),
        ({"tokens": np.array([-1, 2])}, "ids are from -1"),
        ({"tokens": np.zeros((2, 2), int)}, r"tokens are int64\[2, 2\]"),
        ({"tokens": np.zeros(0, int)}, r"tokens are int64\[0\]"),
        ({"tokens": np.zeros(3)}, r"tokens are float64\[3\]"),
        ({"end_of_document": 9}, "end_of_document is 9"),
    ],
)
def test_what_is_no_stream_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        KneserNey.fit(**({"tokens": np.array([1, 2]), "order": 2, "vocabulary": 9, "end_of_document": 0} | settings))


def test_bits_a_byte():
    assert math.isclose(bits_per_byte(8 * math.log(2) * 5, 5), 8)
    with pytest.raises(ValueError, match="bytes is 0"):
        bits_per_byte(1.0, 0)
