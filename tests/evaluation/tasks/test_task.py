import random

import numpy as np
import pytest

from pmpjax.data.duplicates import normalised
from pmpjax.evaluation.tasks.task import Sizes, draw, examples_of, make_task, summary, take, with_classes

PAIRS = [(f"{kind} text number {i}", kind) for kind in ("b", "a", "c") for i in range(40)]


def split_texts(task):
    return {name: {task.texts[number] for number in index} for name, index in task.splits.items()}


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


def test_draws_are_balanced_nested_and_reproducible():
    task = make_task("toy", PAIRS, seed=0)
    small, large = draw(task, 2, seed=5), draw(task, 9, seed=5)
    assert np.bincount(large.labels).tolist() == [9, 9, 9] and np.bincount(small.labels).tolist() == [2, 2, 2]
    assert set(small.index) <= set(large.index) <= set(task.splits["train"])
    assert [task.texts[number] for number in large.index] == large.texts
    assert large.texts == draw(task, 9, seed=5).texts != draw(task, 9, seed=6).texts
    assert (np.diff(large.labels) != 0).sum() > 4  # the classes are mixed
    assert set(draw(task, 4, 0, split="dev").index) == set(task.splits["dev"])


def test_over_seeds_every_example_is_drawn_as_often():
    task = make_task("toy", PAIRS, seed=0)
    drawn = np.bincount(np.concatenate([draw(task, 7, seed).index for seed in range(400)]), minlength=120)
    counts = drawn[task.splits["train"]]  # 400 draws of 7 in 28: mean 100, standard deviation 8.7
    assert counts.sum() == 400 * 21 and counts.min() > 65 and counts.max() < 135


def test_some_classes_keep_their_splits():
    task = make_task("toy", PAIRS, seed=0)._replace(features=np.arange(120, dtype=np.float32)[:, None])
    some = with_classes(task, ["c", "a"])
    assert some.classes == ("a", "c") and len(some.texts) == 80 and some.counts["left out"] == 40
    for name, texts in split_texts(some).items():
        assert texts == {text for text in split_texts(task)[name] if text[0] != "b"}
    assert all(text.startswith(some.classes[label]) for text, label in zip(some.texts, some.labels, strict=True))
    assert some.features is not None and task.features is not None
    assert [task.texts[int(row[0])] for row in some.features] == list(some.texts)


def test_examples_of_a_split():
    task = make_task("toy", PAIRS, seed=0)
    test = examples_of(task, "test")
    assert test.texts == [task.texts[number] for number in task.splits["test"]] and test.features is None
    assert (test.labels == task.labels[test.index]).all()
    assert take(task, np.array([3, 1])).texts == [task.texts[3], task.texts[1]]
    assert summary(task)["train"] == 84 and summary(task)["given"] == 120


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda task: draw(task, 29, 0), r"class 'a' of task 'toy' has 28 examples in split 'train', expected 29"),
        (lambda task: draw(task, 0, 0), "give at least 1"),
        (lambda task: draw(task, 1, 0, split="valid"), "no split 'valid'; it has train, dev, test"),
        (lambda task: with_classes(task, ["a", "bb"]), "no class 'bb'; did you mean 'b'.; it has a, b, c"),
        (lambda task: with_classes(task, ["a", "a"]), "give at least two"),
        (lambda task: make_task("t", PAIRS[:40], seed=0), r"1 classes \(b\) in 40 examples, expected at least 2"),
        (lambda task: make_task("t", [], seed=0), r"0 classes \(none\)"),
        (lambda task: make_task("t", PAIRS, seed=0, sizes=Sizes(dev=0.5, test=0.5)), "leaves nothing to train on"),
        (lambda task: make_task("t", PAIRS, seed=0, given=["tset"] * 120), "split 'tset'; known are test, dev, train"),
        (lambda task: make_task("t", PAIRS, seed=0, given=["test"]), "1 splits for 120 examples"),
        (lambda task: make_task("t", PAIRS, seed=0, sizes=Sizes(per_class=0)), "per_class=0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_task("toy", PAIRS, seed=0))
