"""Groups: what is in which, and demonstrations that do not fit, are empty, or give the answer away."""

import numpy as np
import pytest

from pmpjax.contexts import Format, build_groups

FORM = Format(lambda text: list(text.encode()), window=20, prefix=(1, 2))
TEXTS = ["ab:x\n", "cde:y\n", "f:x\n", "gh:y\n", "i:x\n"]


def text_of(groups, number):
    return bytes(groups.tokens[number, : groups.lengths[number]].tolist()).decode()


def test_groups_are_filled_in_order_and_the_last_one_stays():
    groups = build_groups(FORM, TEXTS, room=5)
    assert groups.members == ((0, 1), (2, 3, 4)) and groups.prefix.tolist() == [1, 2]
    assert [text_of(groups, number) for number in range(2)] == ["ab:x\ncde:y\n", "f:x\ngh:y\ni:x\n"]
    by_size = build_groups(FORM, TEXTS, size=2)
    assert by_size.members == ((0, 1), (2, 3), (4,)) and by_size.lengths.tolist() == [11, 9, 4]
    assert (by_size.tokens[2, 4:] == 0).all()
    given = build_groups(FORM, TEXTS, [[4, 0], [2]])
    assert given.members == ((4, 0), (2,)) and text_of(given, 0) == "i:x\nab:x\n"


def test_what_is_too_long_is_named_and_counted():
    with pytest.warns(UserWarning, match=r"1 of 3 demonstrations .* 18 tokens .*: 1 \(30 tokens\); they are left out"):
        groups = build_groups(FORM, ["ab:x\n", "z" * 30, "f:x\n"])
    assert groups.too_long == (1,) and groups.members == ((0, 2),)
    with pytest.raises(ValueError, match=r"2 of 2 demonstrations .* none is left"):
        build_groups(FORM, ["z" * 30, "z" * 40])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="group 1 is empty without"):
        build_groups(FORM, ["ab:x\n", "z" * 30], [[0], [1]])


def test_duplicates_of_queries_are_warned_about():
    with pytest.warns(UserWarning, match="2 demonstrations begin with the text of a query: 0, 2"):
        groups = build_groups(FORM, ["G:  x\n", "f:x\n", "h: y\n"], queries=["g:", "h:", "q:"])
    assert groups.duplicates == (0, 2) and groups.members == ((0, 1, 2),)
    assert build_groups(FORM, TEXTS, queries=["q:"]).duplicates == ()


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ([], {}, "there is no demonstration"),
        (TEXTS, {"groups": []}, "there is no demonstration"),
        (TEXTS, {"groups": [[0], [], [1], []]}, "2 groups are empty: 1, 3"),
        (TEXTS, {"groups": [[0, 7]]}, "demonstrations 7, expected indices below 5"),
        (TEXTS, {"groups": [[0, 1, 2, 3]]}, "group 0 has 20 tokens, and the window holds 18"),
        (TEXTS, {"size": 4}, "group 0 has 20 tokens"),
        (TEXTS, {"size": 0}, "size is 0"),
        (TEXTS, {"size": 1, "groups": [[0]]}, "not both"),
        (["a", ""], {}, "1 demonstrations have no token: 1"),
    ],
)
def test_bad_groups_are_errors(texts, options, words):
    with pytest.raises(ValueError, match=words):
        build_groups(FORM, texts, **options)


def test_tokens_are_of_one_type():
    assert {part.dtype for part in build_groups(FORM, TEXTS)[:3]} == {np.dtype(np.int32)}
