"""Kosmos-2: what transformers computed (golden/make_kosmos.py), text alone, the cache, losses, folders, bad input."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from pmpjax.data import Rows
from pmpjax.models import (
    Connector,
    ConnectorConfig,
    Decoder,
    ImageRows,
    Kosmos,
    KosmosConfig,
    Vision,
    VisionConfig,
    embedded,
    empty_cache,
    example_losses,
    generate,
    image_example_losses,
    image_label_mask,
    image_token_loss,
    initialise,
    load_pretrained,
    magneto,
    mean_token_loss,
    recorded,
    save_pretrained,
)
from pmpjax.models.layers import apply

GOLDEN = Path(__file__).parent / "golden" / "kosmos2"
VISION = VisionConfig(size=8, patch=4, width=8, layers=1, heads=2, hidden=12)
CONFIG = KosmosConfig(magneto(19, 8, 2, layers=1, hidden=12), VISION, latents=2)


@pytest.fixture(scope="module")
def golden():
    """(model, parameters, what transformers computed, the rows)."""
    config, params = load_pretrained(GOLDEN)
    expected = load_file(GOLDEN / "expected.safetensors")
    fields = (jnp.asarray(expected[name]) for name in ("tokens", "lengths", "images", "places", "predicted"))
    return Kosmos(config), params, expected, ImageRows(*fields)


@pytest.fixture(scope="module")
def small():
    """(model, its parameters, tokens, images, places)."""
    kosmos, draw = Kosmos(CONFIG), np.random.default_rng(0)
    tokens = jnp.asarray(draw.integers(19, size=(2, 7)))
    images = jnp.asarray(draw.normal(size=(2, 2, 8, 8, 3)), jnp.float32)
    places = jnp.asarray([[0, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]], bool)
    return kosmos, initialise(kosmos, jax.random.key(0), tokens, images, places), tokens, images, places


def run(module, params, *inputs, **options):
    """As `apply`, compiled whole: dozens of single operations take longer to compile."""
    return jax.jit(lambda params, *inputs: apply(module, params, *inputs, **options))(params, *inputs)


def close(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def taken(images, counts):
    """The images that rows have, one after another."""
    return jnp.concatenate([row[:count] for row, count in zip(images, counts, strict=True)])


def compare(kosmos, params, expected, rows, folder):
    """Everything that `computed_kosmos` found in transformers is found here."""
    config, counts = kosmos.config, expected["counts"]
    images = taken(rows.images, counts)
    close(run(Vision(config.vision), params["vision"], images), expected["vision.states"], 1e-5)
    features = run(Vision(config.vision), params["vision"], images, normalised=True)
    close(features, expected["vision.normalised"], 1e-5)
    close(run(Connector(config.connector), params["connector"], features), expected["connector"], 1e-5)

    inside = np.arange(rows.tokens.shape[1])[None, :] < expected["lengths"][:, None]
    read = jax.jit(lambda params: embedded(kosmos, params, rows))(params)
    decoder = Decoder(config.decoder)
    found = jax.jit(lambda params, x: recorded(decoder, params, x))(params["decoder"], read.tokens)
    for index, block in enumerate(found.blocks):
        close(block * inside[..., None], expected[f"block.{index}"], 1e-5)
    logits = run(kosmos, params, rows.tokens, rows.images, rows.places)
    close(logits * inside[..., None], expected["logits"], 1e-5)

    loss = image_token_loss(kosmos)
    (total, count), gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, rows), has_aux=True))(params)
    np.testing.assert_allclose(total / count, expected["loss"], rtol=1e-5)
    save_pretrained(folder, config, gradient)
    found = load_file(folder / "model.safetensors")
    assert {f"gradient.{name}" for name in found} == {name for name in expected if name.startswith("gradient.")}
    for name, part in found.items():
        # No key's bias changes a softmax: its gradient is rounding alone.
        scale = np.abs(expected[f"gradient.{name.replace('k_proj.bias', 'v_proj.bias')}"]).max()
        assert np.abs(part / count - expected[f"gradient.{name}"]).max() <= 1e-4 * scale, name

    written = np.asarray(generate(decoder, params["decoder"], read, len(expected["generated.0"])))
    assert written.tolist() == [expected[f"generated.{row}"].tolist() for row in range(len(written))]


def test_transformers_computed_the_same(golden, tmp_path):
    kosmos, params, expected, rows = golden
    config = kosmos.config
    assert config.decoder == magneto(61, 24, 4, layers=2, hidden=37, norm_epsilon=1e-3) and config.latents == 3
    compare(kosmos, params, expected, rows, tmp_path / "gradient")


def test_the_cache_goes_on_from_the_images(golden):
    """Rows of unequal length: the images in one call, then token by token, against the whole rows of transformers."""
    kosmos, params, expected, rows = golden
    lengths = np.asarray([12, 7, 3])
    cache = empty_cache(kosmos.config.decoder, 3, 20)
    # Random noise where a row has no image yet, or no more: it must not be read.
    images = rows.images + 100.0 * (np.arange(2)[None, :] >= expected["counts"][:, None])[..., None, None, None]
    _, cache = run(kosmos, params, rows.tokens[:, :12], images, rows.places[:, :12], cache=cache)
    cache = cache._replace(lengths=jnp.asarray(lengths))
    step_on = jax.jit(lambda params, token, cache: apply(kosmos, params, token, cache=cache))
    for step in range(6):
        at = lengths + step
        token = np.take_along_axis(np.asarray(rows.tokens), at[:, None], axis=1)
        logits, cache = step_on(params, jnp.asarray(token), cache)
        wanted = expected["logits"][np.arange(3), at]
        np.testing.assert_allclose(logits[:, 0], wanted, atol=2e-5 * np.abs(expected["logits"]).max())


def test_text_alone_is_the_decoder_bit_for_bit(small):
    kosmos, params, tokens, images, places = small
    decoder = Decoder(CONFIG.decoder)
    own = params["decoder"]
    logits = jax.jit(decoder.apply)({"params": own}, tokens)
    np.testing.assert_array_equal(jax.jit(kosmos.apply)({"params": params}, tokens), logits)
    # With images that no place asks for as well: `where` takes the token's own row.
    unmarked = jax.jit(kosmos.apply)({"params": params}, tokens, images, jnp.zeros_like(places))
    np.testing.assert_array_equal(unmarked, logits)
    lengths = jnp.asarray([7, 4])
    rows, text = ImageRows(tokens, lengths), Rows(tokens, lengths)
    theirs = jax.jit(jax.value_and_grad(lambda p: example_losses(decoder)(p, text).sum()))(own)
    ours = jax.jit(jax.value_and_grad(lambda p: image_example_losses(kosmos)(p, rows).sum()))(params)
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1]["decoder"], theirs[1])
    assert all(not leaf.any() for leaf in jax.tree.leaves([ours[1]["vision"], ours[1]["connector"]]))
    losses = image_token_loss(kosmos), mean_token_loss(decoder)
    assert jax.jit(losses[0])(params, rows) == jax.jit(losses[1])(own, text)
    np.testing.assert_array_equal(
        generate(decoder, own, embedded(kosmos, params, rows), 5), generate(decoder, own, text, 5)
    )


def test_images_are_read_where_the_mask_says(small):
    kosmos, params, tokens, images, places = small
    read = run(kosmos, params, tokens, images, places, method="inputs")
    found = run(kosmos, params, images, method="image_embeddings")
    own = params["decoder"]["trunk"]["embedding"][tokens]
    np.testing.assert_array_equal(read[0, jnp.asarray([1, 2, 4, 5])], found[0])
    np.testing.assert_array_equal(read[1, :2], found[1, :2])
    np.testing.assert_array_equal(read[~places], own[~places])
    # One image after the other: the second row's second one is not read, and the placeholders' ids are not.
    changed = images.at[1, 1].set(7.0)
    other = jnp.where(places, 3, tokens)
    np.testing.assert_array_equal(run(kosmos, params, other, changed, places, method="inputs"), read)
    single = run(kosmos, params, images[:1, 1:], method="image_embeddings")
    np.testing.assert_allclose(single[0], found[0, 2:], atol=1e-6)


def test_the_loss_is_of_predicted_text(small):
    kosmos, params, tokens, images, places = small
    predicted = jnp.asarray([[1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 1, 1, 1]], bool)
    rows = ImageRows(tokens, jnp.asarray([7, 6]), images, places, predicted)
    log_p = np.asarray(jax.nn.log_softmax(run(kosmos, params, tokens, images, places)))
    labels = [[3, 6], [2, 4, 5]]
    expected = [[-log_p[n, i - 1, tokens[n, i]] for i in own] for n, own in enumerate(labels)]
    np.testing.assert_allclose(
        image_example_losses(kosmos)(params, rows), [np.mean(row) for row in expected], rtol=1e-5
    )
    total, count = image_token_loss(kosmos)(params, rows)
    np.testing.assert_allclose(total, sum(map(sum, expected)), rtol=1e-5)
    assert count == 5


def test_folders_there_and_back(tmp_path, small):
    kosmos, params, tokens, images, places = small
    save_pretrained(tmp_path / "model", CONFIG, params, end_of_document=2, max_length=99)
    config, same = load_pretrained(tmp_path / "model")
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, same, params)
    config, stacked = load_pretrained(tmp_path / "model", scan_layers=True)
    assert config.decoder.scan_layers
    close(run(Kosmos(config), stacked, tokens, images, places), run(kosmos, params, tokens, images, places), 1e-5)
    save_pretrained(tmp_path / "again", config, stacked, end_of_document=2, max_length=99)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    text = json.loads((tmp_path / "model" / "config.json").read_text())["text_config"]
    assert text["eos_token_id"] == 2 and text["pad_token_id"] == 1 and text["max_position_embeddings"] == 99
    assert len(flatten_dict(params)) == len(load_file(tmp_path / "model" / "model.safetensors"))


def test_copies_and_constants_of_earlier_versions_are_read(tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "model")
    arrays = load_file(folder / "model.safetensors")
    arrays["text_model.lm_head.weight"] = arrays["text_model.model.embed_tokens.weight"]
    arrays["text_model.model.embed_positions.weights"] = np.zeros((5, 24), np.float32)
    arrays["vision_model.model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(arrays, folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder)[1], load_pretrained(GOLDEN)[1])
    arrays["text_model.lm_head.weight"] = arrays["text_model.lm_head.weight"] + 1
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"text_model\.lm_head\.weight is another matrix than .*; remove the tensor"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"layers": 0}, r"config\.json: text_config: layers is 0"),
        ("text_config", {"activation_function": "relu"}, "text_config: activation_function is 'relu'"),
        ("text_config", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("text_config", {"pad_token_id": None}, "pad_token_id is None; this decoder has an id there"),
        ("text_config", {"vocab_size": 62}, r"embed_tokens\.weight is \[61, 24\], expected \[62, 24\]"),
        ("text_config", {"attention_heads": 5}, r"config\.json: width / heads must be a whole number"),
        ("vision_config", {"hidden_act": "silu"}, "vision_config: hidden_act is 'silu'"),
        ("vision_config", {"patch_size": 5}, r"config\.json: size is 12 pixels, expected a multiple of the patch, 5"),
        ("vision_config", {"image_size": [12, 16]}, r"image_size is \[12, 16\]"),
        ("vision_config", {"num_hidden_layers": 3}, r"16 missing: vision_model\.model\.encoder\.layers\.2"),
        (None, {"latent_query_num": 4}, r"latent_query is \[3, 24\], expected \[4, 24\]"),
        (None, {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (None, {"text_config": [1]}, r"text_config is \[1\]; this decoder has an object there"),
    ],
)
def test_what_this_model_has_not_is_named(tmp_path, part, change, message):
    folder = shutil.copytree(GOLDEN, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (settings[part] if part else settings).update(change)
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def test_bad_input_is_named(small, tmp_path):
    kosmos, params, tokens, images, places = small
    with pytest.raises(ValueError, match="images without places"):
        apply(kosmos, params, tokens, images)
    with pytest.raises(ValueError, match="places without images"):
        apply(kosmos, params, tokens, None, places)
    with pytest.raises(ValueError, match=r"row 0 has 4 places for 1 images of 2 embeddings, 2 in all"):
        apply(kosmos, params, tokens, images[:, :1], places)
    with pytest.raises(ValueError, match=re.escape("images are [8, 12, 3], expected [8, 8, 3]")):
        apply(kosmos, params, tokens, jnp.zeros((2, 2, 8, 12, 3)), places)
    for change, message in (
        ({"positions": "sinusoidal"}, "positions is 'sinusoidal', the format holds 'tensor2tensor'"),
        ({"sub_norm": False}, "sub_norm is False"),
        ({"embedding_scale": 2.0}, r"embedding_scale is 2\.0, the format holds 2\.8.* or 1\.0"),
        ({"first_position": 0}, "first_position is 0"),
    ):
        config = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, **change))
        with pytest.raises(ValueError, match=message):
            save_pretrained(tmp_path / "model", config, params)
    assert not (tmp_path / "model").exists()
    for change in ({"size": 9}, {"heads": 3}):
        with pytest.raises(ValueError, match="expected a multiple"):
            dataclasses.replace(VISION, **change)
    with pytest.raises(ValueError, match="width is 8, expected a multiple of the 3 heads"):
        ConnectorConfig(2, 8, 3)
    with pytest.raises(ValueError, match="first_position is 2 and positions are rotary"):
        magneto(19, 8, 2, positions="rotary")
    with pytest.raises(ValueError, match="embedding_scale is 0"):
        magneto(19, 8, 2, embedding_scale=0.0)


def test_places_of_zeros_and_ones_are_places():
    rows = ImageRows(np.zeros((1, 4), int), np.array([4]), places=np.array([[0, 1, 0, 0]]))
    assert image_label_mask(rows).tolist() == [[0.0, 1.0, 1.0]]
