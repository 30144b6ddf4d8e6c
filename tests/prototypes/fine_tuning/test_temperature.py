"""The temperature undoes a known scale, and stays finite where every example is right."""

import numpy as np

from pmpjax.prototypes.fine_tuning.temperature import best_temperature


def test_a_known_scale_is_undone_and_certainty_is_never_promised():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    found, _ = best_temperature(4 * logits, labels, np.ones(20_000))
    assert abs(found - 4) < 0.2
    right = np.eye(3)[np.arange(30) % 3]
    temperature, loss = best_temperature(right, np.arange(30) % 3, np.ones(30))
    assert temperature > 0.1 and np.exp(-loss) < 0.96
