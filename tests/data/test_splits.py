import pytest

from pmpjax.data import Document, SourceError
from pmpjax.data.splits import hold_out, split_target


def documents(groups):
    return [Document(f"{group}{i}", "text", f"{group}.txt:{i}", group) for i, group in enumerate(groups)]


def test_no_group_is_on_both_sides():
    dev, test = split_target(documents("aabbbcdefgabc"))
    assert len(dev) + len(test) == 13 and dev and test
    assert not {document.group for document in dev} & {document.group for document in test}
    assert split_target(documents("aabbbcdefgabc"), seed=1) != (dev, test)


def test_the_side_of_a_group_does_not_depend_on_the_order_of_documents():
    dev, _ = split_target(documents("abcdef"))
    other, _ = split_target(documents("abcdef")[::-1])
    assert set(dev) == set(other)


def test_one_group_is_torn_and_one_document_refused():
    dev, test = split_target(documents("aaaa"))
    assert len(dev) == len(test) == 2
    with pytest.raises(SourceError, match="at least 2 documents"):
        split_target(documents("a"))


def test_files_are_not_torn_unless_there_is_no_other_way():
    train, heldout = hold_out(documents("aaaaabbbbbccddeeff"), 0.3)
    assert heldout and not {d.group for d in train} & {d.group for d in heldout}
    assert hold_out(documents("abcdefghij"), 0.3, seed=1) != hold_out(documents("abcdefghij"), 0.3)
    for found, count in ((documents("a" * 20), 4), (documents("ab"), 1)):
        train, heldout = hold_out(found, 0.2)
        assert len(heldout) == count and len(train) + count == len(found)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"share is {share}"):
            hold_out(documents("ab"), share)
