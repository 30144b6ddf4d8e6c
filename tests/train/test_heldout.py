"""The loss of a whole set, whatever its chunks."""

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.train.heldout import set_loss, spread_rows
from pmpjax.train.mesh import MeshConfig, make_mesh


def test_the_loss_of_a_set_weighs_every_label_alike_whatever_the_chunk():
    decoder = Decoder(DecoderConfig(13, 8, 1, 2, 1, 16))
    tokens = jax.random.randint(jax.random.key(0), (7, 6), 0, 13)
    rows = Rows(tokens, jnp.array([6, 2, 3, 6, 1, 4, 6]))
    params = initialise(decoder, jax.random.key(1), tokens)
    labels = np.asarray(rows.lengths) - 1
    expected = np.dot(jax.jit(example_losses(decoder))(params, rows), labels) / labels.sum()
    for chunk in (3, 7):
        np.testing.assert_allclose(jax.jit(set_loss(decoder, rows, chunk))(params), expected, rtol=1e-5)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    np.testing.assert_allclose(jax.jit(set_loss(decoder, rows, 3, mesh))(params), expected, rtol=1e-5)


def test_spread_rows_takes_all_when_there_are_few():
    rows = Rows(np.arange(12).reshape(6, 2), np.full(6, 2))
    np.testing.assert_array_equal(spread_rows(rows, 99).tokens, rows.tokens)
    assert len(spread_rows(rows, 3).lengths) == 3
