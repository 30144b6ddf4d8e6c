"""Files of contexts: they come back as they were, and to no other model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from pmpjax.contexts import Format, build_context, build_groups, context_notes, load_context, save_context
from pmpjax.models import Decoder, DecoderConfig, initialise, stack_layers

CONFIG = DecoderConfig(vocabulary=11, width=8, layers=2, heads=2, key_value_heads=1, hidden=16)
FORM = Format(lambda text: [int(letter) for letter in text], window=9, prefix=(10,))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    decoder = Decoder(CONFIG)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    context = build_context(decoder, params, build_groups(FORM, ["123", "4567", "89"], size=1))
    path = tmp_path_factory.mktemp("stored") / "context.safetensors"
    save_context(path, context, CONFIG, params, {"classes": ["a", "b"]})
    return params, context, path


def test_a_context_comes_back_as_it_was(made):
    params, context, path = made
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    for config, own in ((CONFIG, params), (scanned, stack_layers(params))):
        for before, after in zip(context, load_context(path, config, own), strict=True):
            assert (np.asarray(before).dtype, np.shape(before)) == (after.dtype, after.shape)
            np.testing.assert_array_equal(before, after)
    told = context_notes(path)
    assert told["notes"] == {"classes": ["a", "b"]} and told["shapes"]["keys"] == [2, 3, 4, 1, 4]


def test_it_belongs_to_one_model(made):
    params, _, path = made
    other = jax.tree.map(lambda leaf: leaf, params)
    other["trunk"]["embedding"] = other["trunk"]["embedding"].at[3, 2].add(1e-6)
    with pytest.raises(ValueError, match="a model with other parameters"):
        load_context(path, CONFIG, other)
    with pytest.raises(ValueError, match=r"other sizes \(rope_base 10000.0, here 500.0\)"):
        load_context(path, dataclasses.replace(CONFIG, rope_base=500.0), params)


def test_files_that_are_none_are_named(made, tmp_path):
    params, _, path = made
    with pytest.raises(FileNotFoundError, match="is not there; write it by"):
        load_context(tmp_path / "none.safetensors", CONFIG, params)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_context(tmp_path / "cut.safetensors", CONFIG, params)
    save_file({"keys": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no context"):
        load_context(tmp_path / "other.safetensors", CONFIG, params)


def test_half_precision_is_written_wider(made, tmp_path):
    params, context, _ = made
    half = context._replace(keys=context.keys.astype(jnp.bfloat16))
    save_context(tmp_path / "half.safetensors", half, CONFIG, params)
    found = load_context(tmp_path / "half.safetensors", CONFIG, params).keys
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.keys.astype(jnp.float32))
