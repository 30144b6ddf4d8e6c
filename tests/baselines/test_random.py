"""The conventional baseline."""

import jax
import numpy as np

from pmpjax.baselines.random import random
from tests.corpora import prepared_corpus


def test_every_document_is_kept_equally_often_and_the_key_decides(tmp_path):
    prepared = prepared_corpus(tmp_path, documents=5)
    draw = jax.jit(lambda key: random(prepared, key))
    kept = np.zeros(5)
    for seed in range(300):
        kept[np.argsort(draw(jax.random.key(seed)))[-2:]] += 1
    assert (np.abs(kept / 300 - 0.4) < 0.11).all()  # four standard errors
    np.testing.assert_array_equal(draw(jax.random.key(1)), draw(jax.random.key(1)))
