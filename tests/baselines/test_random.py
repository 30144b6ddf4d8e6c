"""The conventional baseline."""

from types import SimpleNamespace

import jax
import numpy as np

from pmpjax.baselines.random import random


def test_every_document_is_kept_equally_often_and_the_key_decides():
    prepared = SimpleNamespace(documents=SimpleNamespace(ids=np.array(list("abcde"), object)))
    draw = random.__wrapped__ if hasattr(random, "__wrapped__") else random
    kept = np.zeros(5)
    for seed in range(300):
        kept[np.argsort(draw(prepared, jax.random.key(seed)))[-2:]] += 1
    assert (np.abs(kept / 300 - 0.4) < 0.1).all()  # four standard errors are 0.11
    np.testing.assert_array_equal(draw(prepared, jax.random.key(1)), draw(prepared, jax.random.key(1)))
