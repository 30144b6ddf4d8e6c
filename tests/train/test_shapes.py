"""Shapes without data are those of the real thing, and lie as it would."""

import jax
import numpy as np
from jax.sharding import PartitionSpec

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, ScorerModel, example_losses, initialise
from pmpjax.train import MeshConfig, OptimizerConfig, adamw, make_mesh
from pmpjax.train.mesh import shardings
from pmpjax.train.shapes import Shapes

DECODER = DecoderConfig(vocabulary=32, width=16, layers=1, heads=2, key_value_heads=1, hidden=24)
SHAPES = Shapes(make_mesh(MeshConfig(), jax.devices()[:1]), 8)


def described(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_parameters_are_those_of_the_model_with_the_meshs_shardings():
    tokens = np.zeros((1, 8), np.int32)
    params = SHAPES.params(Decoder(DECODER))
    assert described(params) == described(initialise(Decoder(DECODER), jax.random.key(0), tokens))
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == shardings(params, SHAPES.mesh)
    scorer = SHAPES.params(ScorerModel(DECODER))
    assert scorer["trunk"].keys() == params["trunk"].keys() and scorer["weight"].shape == (16, 1)


def test_rows_are_full_and_split_where_asked():
    rows = SHAPES.rows(3, 4, split=True)
    assert rows.tokens.shape == (3, 4, 8) and rows.lengths.shape == (3, 4)
    assert rows.tokens.sharding.spec != PartitionSpec() == SHAPES.rows(3).tokens.sharding.spec


def test_the_lowered_step_takes_a_real_batch():
    params, batch = SHAPES.params(Decoder(DECODER)), SHAPES.rows(2, split=True)
    settings = OptimizerConfig()
    lower = SHAPES.training(example_losses(Decoder(DECODER)), params, batch, settings, 10)
    tokens = np.ones((2, 8), np.int32)
    real = initialise(Decoder(DECODER), jax.random.key(0), tokens)
    state = adamw(settings, 10).init(real)
    found = lower().compile()(real, state, (Rows(tokens, np.full(2, 8, np.int32)),))
    assert described(found[0]) == described(params)
