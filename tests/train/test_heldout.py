"""The loss of a whole set, whatever its chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.costs.compiled import matrix_product_flops
from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.train.heldout import in_chunks, mean_loss, row_terms, set_loss, spread_rows
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


def quadratic(params, rows):
    return jnp.square(rows.tokens @ params) * rows.lengths


def test_the_mean_over_rows_and_its_derivatives_are_those_of_the_whole_set_by_any_chunk(float64):
    tokens = jax.random.randint(jax.random.key(5), (7, 12), 0, 24)
    rows, params = Rows(tokens, jnp.arange(7) + 2), jnp.linspace(-1.0, 1.0, 12)

    def found(loss):
        curvature = jax.jvp(jax.grad(loss), (params,), (jnp.ones(12),))[1]
        return loss(params), jax.grad(loss)(params), jax.jvp(loss, (params,), (jnp.ones(12),))[1], curvature

    expected = found(lambda p: quadratic(p, rows).mean())
    for chunk in (3, 7, 50):
        for one, other in zip(found(mean_loss(row_terms(quadratic), rows, chunk)), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
    with pytest.raises(ValueError, match="chunk is 0"):
        in_chunks(rows, 0)


def test_a_gradient_in_chunks_costs_no_more_than_of_the_whole_and_keeps_one_chunk():
    decoder = Decoder(DecoderConfig(512, 64, 2, 2, 2, 128))
    rows = Rows(jnp.ones((64, 17), jnp.int32), jnp.full(64, 17))
    params = initialise(decoder, jax.random.key(0), rows.tokens[:1])

    def compiled(chunk):
        made = jax.jit(jax.grad(lambda p: set_loss(decoder, rows, chunk)(p)))
        return made.lower(params).compile({"xla_backend_optimization_level": 1})

    whole, parts = compiled(64), compiled(4)
    flops = [matrix_product_flops(program.as_text()) for program in (whole, parts)]
    assert flops[1] == pytest.approx(flops[0], rel=0.05)
    memory = [program.memory_analysis().temp_size_in_bytes for program in (whole, parts)]
    assert memory[1] < 0.25 * memory[0]


def test_spread_rows_takes_all_when_there_are_few():
    rows = Rows(np.arange(12).reshape(6, 2), np.full(6, 2))
    np.testing.assert_array_equal(spread_rows(rows, 99).tokens, rows.tokens)
    assert len(spread_rows(rows, 3).lengths) == 3
