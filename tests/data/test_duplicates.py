import numpy as np
import pytest

from pmpjax.data.documents import Document, SourceError
from pmpjax.data.duplicates import (
    EXACT,
    NEAR,
    deduplicate,
    find_copies,
    jaccard,
    normalised,
    overlap,
    shingles,
    signatures,
)


def word_sets(text):
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def similarity(a, b):
    a, b = word_sets(a), word_sets(b)
    return len(a & b) / len(a | b)


def mutated_corpus(seed, count=250):
    """Texts, exact copies in another dress, and copies with a few words changed: all degrees of likeness."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        if not texts or random.random() < 0.4:
            words = [f"w{i}" for i in random.integers(0, 300, random.integers(1, 120))]
        else:
            words = texts[random.integers(len(texts))].split()
            for _ in range(random.integers(0, 6)):
                words[random.integers(len(words))] = f"v{random.integers(300)}"
            if random.random() < 0.2:
                words = [word.upper() for word in words]
        texts.append((" " if random.random() < 0.5 else " \n").join(words))
    return texts


@pytest.mark.parametrize(("threshold", "seed"), [(0.6, 0), (0.7, 1), (0.9, 2)])
def test_copies_are_those_of_a_brute_force_search(threshold, seed):
    texts = mutated_corpus(seed)
    kept, kinds = [], []
    first = {}
    for index, text in enumerate(texts):
        key = normalised(text)
        if key in first:
            kinds.append(EXACT)
        elif any(similarity(text, texts[other]) >= threshold for other in kept):
            kinds.append(NEAR)
        else:
            kinds.append(0)
            kept.append(index)
        first.setdefault(key, index)
    copies = find_copies(texts, threshold)
    assert {0, EXACT, NEAR} == set(kinds)  # the corpus is worth testing on
    np.testing.assert_array_equal(copies.kind, kinds)
    for index, original in enumerate(copies.original):
        assert (original == -1) == (kinds[index] == 0)
        if kinds[index]:
            assert original < index and kinds[original] == 0 and similarity(texts[index], texts[original]) >= threshold


def test_shingles_are_the_sets_of_five_words():
    texts = mutated_corpus(3, 60)
    sets = shingles(texts)
    parts = [sets.values[a:b] for a, b in zip(sets.starts[:-1], sets.starts[1:], strict=True)]
    assert [len(part) for part in parts] == [len(word_sets(text)) for text in texts]
    for i in range(0, 60, 7):
        for j in range(0, 60, 5):
            assert jaccard(parts[i], parts[j]) == pytest.approx(similarity(texts[i], texts[j]), abs=1e-12)


def test_minima_agree_as_often_as_the_sets_overlap():
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words[:300]), " ".join(words[100:])]
    minima = signatures(shingles(texts), bands=2000, rows=1)
    assert (minima[0] == minima[1]).mean() == pytest.approx(similarity(*texts), abs=0.04)  # 4 standard errors


def test_blank_and_short_texts_have_one_shingle():
    np.testing.assert_array_equal(np.diff(shingles(["", "a", "a b c d e", " "]).starts), [1, 1, 1, 1])


def test_overlap_is_the_share_of_known_shingles():
    assert overlap(["a b c d e f", "x y z", "a b c d e"], ["0 a b c d e"]).tolist() == [0.5, 0.0, 1.0]
    assert overlap(["a b"], []).tolist() == [0.0] and overlap([], ["a"]).tolist() == []


def test_a_threshold_that_minhash_cannot_serve_is_refused():
    with pytest.raises(ValueError, match=r"threshold is 0\.2"):
        find_copies(["a"], 0.2)


def test_no_texts_no_copies():
    assert find_copies([]).kind.shape == (0,)


def test_copies_between_sets_go_in_the_order_of_their_names():
    texts = mutated_corpus(3)
    parts = {"first": texts[:60], "second": texts[60:140], "third": texts[140:]}
    sets = {name: [Document(f"{name}{i}", text, "", "") for i, text in enumerate(part)] for name, part in parts.items()}
    found = deduplicate(sets, 0.7)
    copies = find_copies(texts, 0.7)
    kept = [texts[i] for i in np.flatnonzero(copies.kind == 0)]
    assert [document.text for part in found.kept.values() for document in part] == kept
    member = np.repeat([0, 1, 2], [60, 80, len(texts) - 140])
    for a, name in enumerate(parts):
        for b, other in enumerate(parts):
            pairs = (member == a) & (copies.original >= 0) & (member[copies.original] == b)
            assert found.copies[name][other] == pairs.sum()
            assert found.exact[name][other] == (pairs & (copies.kind == EXACT)).sum()
    assert found.copies["first"]["third"] == 0 < found.copies["third"]["first"]


def test_a_set_of_which_nothing_is_left_is_named():
    one = Document("1", "the same words", "", "")
    with pytest.raises(SourceError, match="nothing is left of second"):
        deduplicate({"first": [one], "second": [one]}, 0.7)
