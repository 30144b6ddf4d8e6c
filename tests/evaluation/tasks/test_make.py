import random

import numpy as np
import pytest

from pmpjax.data.duplicates import normalised
from pmpjax.evaluation.tasks.make import Sizes, make_task
from tests.corpora import LABELLED as PAIRS
from tests.corpora import split_texts


@pytest.mark.parametrize("seed", range(5))
def test_splits_cover_the_task_and_share_no_text(seed):
    task = make_task("toy", PAIRS, seed=seed)
    assert list(task.splits) == ["train", "dev", "test"]
    assert sorted(np.concatenate(list(task.splits.values()))) == list(range(120))
    texts = [{normalised(task.texts[number]) for number in index} for index in task.splits.values()]
    assert [len(part) for part in texts] == [84, 12, 24] and len(set.union(*texts)) == 120
    for index in task.splits.values():  # classes keep their shares
        assert len(set(np.bincount(task.labels[index]))) == 1
    assert {(text, task.classes[label]) for text, label in zip(task.texts, task.labels, strict=True)} == set(PAIRS)


def test_a_task_is_the_same_again_in_any_order_of_the_file_and_another_for_another_seed():
    mixed = random.Random(0).sample(PAIRS, len(PAIRS))
    one, two, other = make_task("toy", PAIRS, seed=0), make_task("toy", mixed, seed=0), make_task("toy", PAIRS, seed=1)
    assert one.texts == two.texts and (one.labels == two.labels).all()
    assert split_texts(one) == split_texts(two) != split_texts(other)
    # A pinned value: the same on every machine and with every version of numpy.
    assert sorted(split_texts(one)["dev"])[:2] == ["a text number 14", "a text number 21"]


def test_copies_are_dropped_and_counted():
    copies = [("A  TEXT\nnumber 0", "a"), ("a text number 1", "a"), ("b text number 3", "c"), ("B text number 3", "b")]
    task = make_task("toy", PAIRS + copies, seed=0)
    assert task.counts == {"given": 124, "duplicates": 2, "conflicting": 3, "left out": 0, "rejected": 0}
    assert len(task.texts) == 119 and "b text number 3" not in task.texts
    assert task.counts["given"] == len(task.texts) + 2 + 3
    assert "a text number 0" in task.texts  # the first one stays


def test_sizes_keep_the_largest_classes_and_do_not_depend_on_the_seed():
    pairs = PAIRS + [(f"more {i}", "c") for i in range(5)] + [("rare", "d")]
    tasks = [make_task("toy", pairs, seed=seed, sizes=Sizes(classes=2, per_class=30, test=0.5)) for seed in (0, 1)]
    assert tasks[0].classes == ("b", "c")  # of "a" and "b" the one that comes first
    assert np.bincount(tasks[0].labels).tolist() == [30, 30] and len(tasks[0].splits["test"]) == 30
    assert tasks[0].texts == tasks[1].texts and split_texts(tasks[0]) != split_texts(tasks[1])
    assert tasks[0].counts["left out"] == len(pairs) - 60


def test_every_class_has_something_to_train_on():
    task = make_task("toy", [*PAIRS, ("alone", "d"), ("one", "e"), ("two", "e")], seed=0, sizes=Sizes(0.45, 0.5))
    assert set(task.labels[task.splits["train"]]) == set(range(5))


def test_given_splits_are_kept_and_a_copy_stays_where_it_is_tested():
    given = ["train"] * 100 + ["test"] * 20
    task = make_task("toy", [*PAIRS, (PAIRS[119][0].upper(), "c")], seed=0, given=[*given, "train"])
    assert [len(task.splits[name]) for name in ("train", "dev", "test")] == [100, 0, 20]
    assert split_texts(task)["test"] == {text for text, _ in PAIRS[100:]}
    assert task.counts["duplicates"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_task("t", PAIRS[:40], seed=0), r"1 classes \(b\) in 40 examples, expected at least 2"),
        (lambda: make_task("t", [], seed=0), r"0 classes \(none\)"),
        (lambda: make_task("t", PAIRS, seed=0, sizes=Sizes(dev=0.5, test=0.5)), "leaves nothing to train on"),
        (lambda: make_task("t", PAIRS, seed=0, given=["tset"] * 120), "split 'tset'; known are test, dev, train"),
        (lambda: make_task("t", PAIRS, seed=0, given=["test"]), "1 splits for 120 examples"),
        (lambda: make_task("t", PAIRS, seed=0, sizes=Sizes(per_class=0)), "per_class=0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_order_mixes_classes_also_where_one_was_cut_hard():
    pairs = [(f"{kind} text {i}", kind) for kind, count in (("rare", 40), ("common", 4_000)) for i in range(count)]
    labels = make_task("toy", pairs, seed=0, sizes=Sizes(per_class=40)).labels
    halves = [np.mean(labels[part] == 0) for part in (slice(0, 40), slice(40, 80))]
    assert all(0.25 < share < 0.75 for share in halves)
