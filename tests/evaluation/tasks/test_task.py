import numpy as np
import pytest

from pmpjax.evaluation.tasks.make import make_task
from pmpjax.evaluation.tasks.task import draw, examples_of, summary, take, with_classes
from tests.corpora import LABELLED as PAIRS
from tests.corpora import split_texts


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
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_task("toy", PAIRS, seed=0))
