"""The order in which patches are read; the whole model's test holds the tower against transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.models import Vision, VisionConfig, initialise
from pmpjax.models.layers import apply

VISION = VisionConfig(size=8, patch=4, width=8, layers=1, heads=2, hidden=12)


def test_patches_are_read_row_by_row():
    vision = Vision(VISION)
    images = jnp.arange(8 * 8 * 3, dtype=jnp.float32).reshape(1, 8, 8, 3)
    params = dict(initialise(vision, jax.random.key(0), images))
    kernel = jnp.zeros((4, 4, 3, 8)).at[1, 2, 0, 0].set(1.0)  # the pixel in column 1 and row 2, its first colour
    read = {**params, "patch": kernel, "positions": jnp.zeros((5, 8)), "class_token": jnp.zeros(8)}
    # A norm hides a linear map's values; their order is seen in which token moves when a pixel does.
    before = apply(vision, read, images)
    for token, (y, x) in enumerate([(2, 1), (2, 5), (6, 1), (6, 5)], start=1):
        moved = Vision(dataclasses.replace(VISION, layers=0))
        flat = apply(moved, {k: v for k, v in read.items() if k != "layers_0"}, images.at[0, y, x, 0].set(-1e3))
        still = apply(moved, {k: v for k, v in read.items() if k != "layers_0"}, images)
        assert np.flatnonzero(np.abs(flat - still).max(-1)[0] > 1e-3).tolist() == [token]
    assert before.shape == (1, 5, 8) and VISION.tokens == 5
