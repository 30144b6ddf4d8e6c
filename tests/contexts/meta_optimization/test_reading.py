"""Prompts with and without demonstrations, and rows to train on, are the same tokens."""

import numpy as np
import pytest

from pmpjax.contexts.meta_optimization.reading import in_context, training_rows, zero_shot
from tests.contexts.meta_optimization.small import DEMONSTRATIONS, FORM, LAYOUT, QUESTIONS


def ids(text):
    return list(FORM.encode(text))


def test_all_rows_hold_the_same_tokens():
    reading = in_context(LAYOUT, DEMONSTRATIONS, QUESTIONS.queries)
    body = [28, 29, *ids("acdbzefgczhijkbzlmcz")]
    for row, last, query in zip(reading.tokens, reading.last, QUESTIONS.queries, strict=True):
        assert row[: last + 1].tolist() == body + ids(query)
    assert reading.begin == len(body) and reading.sizes == (4, 4, 5, 3)
    assert reading.tokens[0, reading.shown].tolist() == ids("".join(DEMONSTRATIONS))
    assert np.flatnonzero(reading.context).tolist() == list(range(2, len(body)))
    assert reading.asked[0].tolist() == [-1, 22, 23] and reading.asked[1].tolist() == [22, 23, 24]
    asked = zero_shot(LAYOUT, reading)
    assert asked.tokens[1].tolist() == [28, 29, *ids("pqr")] and asked.begin == 2 and not asked.context.any()
    rows = training_rows(LAYOUT, reading)
    assert rows.tokens[3].tolist() == [28, 29, *ids("lmc"), 0, 0]
    assert rows.labels[3].tolist() == [0, 1, 1, 1, 0, 0] and rows.labels.sum() == 16
    assert rows.tokens[tuple(rows.shown)].tolist() == ids("".join(DEMONSTRATIONS))


def test_without_prefix_the_first_token_is_not_predicted():
    layout = LAYOUT._replace(form=FORM._replace(prefix=()))
    rows = training_rows(layout, in_context(layout, ["abc", "d"], ["e"]))
    assert rows.tokens.tolist() == [[0, 1, 2], [3, 0, 0]] and rows.labels.tolist() == [[1, 1], [0, 0]]


def test_no_separator_still_tells_demonstrations_apart():
    layout = LAYOUT._replace(separator="")
    reading = in_context(layout, ["abc", "de"], ["e"])
    assert reading.sizes == (3, 2) and training_rows(layout, reading).tokens[1].tolist() == [28, 29, 3, 4, 0]


def test_what_the_window_cannot_hold_is_named_and_in_no_row():
    layout = LAYOUT._replace(form=FORM._replace(window=12))
    with pytest.warns(UserWarning, match=r"1 of 2 demonstrations are longer .* 1 \(9 tokens\)"):
        reading = in_context(layout, ["ab", "cdefghij"], ["e", "pqrs"])
    assert reading.too_long == (1,) and reading.sizes == (2,)
    assert training_rows(layout, reading).tokens.tolist() == [[28, 29, 0, 1]]


@pytest.mark.parametrize(
    ("demonstrations", "queries", "words"),
    [
        ([], ["a"], "the list of demonstrations is empty"),
        (["ab"], [], "no queries"),
        (["a" * 70], ["b"], "none is left: shorten them"),
        (["a" * 30, "b" * 40], ["b"], "the first 1 fit"),
        (["ab", ""], ["b"], "1 demonstrations have no token: 1"),
        (["ab"], ["b", ""], "has no token"),
    ],
)
def test_what_cannot_be_asked_is_an_error(demonstrations, queries, words):
    with pytest.raises(ValueError, match=words):
        in_context(LAYOUT, demonstrations, queries)


def test_a_query_among_the_demonstrations_is_counted():
    with pytest.warns(UserWarning, match="begin with the query's own text"):
        assert in_context(LAYOUT, DEMONSTRATIONS, ["efg"]).duplicates == 1
