import numpy as np
from sklearn.datasets import load_digits

from pmpjax.evaluation.tasks.digits import digits
from pmpjax.evaluation.tasks.make import Sizes
from pmpjax.evaluation.tasks.task import draw


def test_pictures_as_text_and_as_numbers():
    task = digits(sizes=Sizes(per_class=60))
    assert task.classes == tuple("0123456789") and task.features is not None
    assert task.features.shape == (600, 64) and task.features.dtype == np.float32
    data = load_digits()
    known = {tuple(picture.tolist()): target for picture, target in zip(data["data"], data["target"], strict=True)}
    assert [known[tuple(row.tolist())] for row in task.features * 16] == task.labels.tolist()
    assert task.texts[0].count("\n") == 7
    drawn = draw(task, 2, seed=0)
    assert drawn.features is not None and (drawn.features == task.features[drawn.index]).all()


def test_the_pictures_can_be_told_apart():
    """Nearest class mean, far above the one in ten of a mistake in the order of pictures and labels."""
    task = digits()
    assert task.features is not None and task.counts["given"] == 1797
    train, test = task.splits["train"], task.splits["test"]
    means = np.stack([task.features[train][task.labels[train] == label].mean(0) for label in range(10)])
    nearest = ((task.features[test][:, None] - means[None]) ** 2).sum(-1).argmin(-1)
    assert (nearest == task.labels[test]).mean() > 0.85
