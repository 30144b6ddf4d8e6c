"""scikit-learn's handwritten digits: pictures of 8 x 8 grey levels -> digit."""

import numpy as np

from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Task


def digits(*, seed: int = 0, sizes: Sizes = Sizes()) -> Task:
    """1,797 pictures -> "0" to "9"; the one task with `features`: grey levels / 16, float32 [examples, 64].

    A picture's text is its grey levels from 0 to 16, a line of eight numbers for each row.
    """
    from sklearn.datasets import load_digits  # a second of import, which the other tasks do not need

    pictures, targets = (np.asarray(part, np.int32) for part in load_digits(return_X_y=True))
    texts = ["\n".join(" ".join(map(str, row)) for row in picture.reshape(8, 8).tolist()) for picture in pictures]
    task = make_task(
        "digits",
        list(zip(texts, map(str, targets.tolist()), strict=True)),
        seed=seed,
        sizes=sizes,
        source="scikit-learn's load_digits",
    )
    features = np.array([text.split() for text in task.texts], np.float32) / np.float32(16)
    return task._replace(features=features)
