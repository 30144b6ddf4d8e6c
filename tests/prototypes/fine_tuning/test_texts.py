"""Texts become unit vectors, in their order, whatever the batch; by encoders and by decoders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, encode_sentences, initialise, load_encoder, save_pretrained
from pmpjax.models.layers import apply
from pmpjax.prototypes.fine_tuning.texts import batches_of, embed_texts, load_text_encoder, padded, pooled_states
from tests.prototypes.fine_tuning.bars import Bars

TEXTS = ["a b", "c", "d d d d d d d d d d d d d d d d", "e a", "b"]
DECODER = Decoder(DecoderConfig(vocabulary=280, width=16, layers=1, heads=2, key_value_heads=1, hidden=24))
HIDDEN_STATES = jax.jit(functools.partial(apply, DECODER, method="hidden"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder that is noise, in a folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("decoder")
    train_tokenizer(["a b c d e"] * 3, 280).save(str(folder / "tokenizer.json"))
    params = initialise(DECODER, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    save_pretrained(folder / "model", DECODER.config, params, tokenizer=folder / "tokenizer.json")
    return folder / "model", params


def test_an_encoder_gives_the_vectors_of_its_room_in_order_and_in_any_batch(fitted):
    source = fitted.folder / "bert"
    encoder = load_text_encoder(source)
    expected = encode_sentences(load_encoder(source), TEXTS)
    bars = Bars()
    with bars("states", len(TEXTS)) as bar:
        found = embed_texts(encoder, TEXTS, batch=2, bar=bar)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(embed_texts(encoder, TEXTS[::-1], batch=32)[::-1], expected, atol=1e-5)
    assert bars["states"] == [5, 5]


def test_padding_ends_at_the_positions_that_a_model_has(fitted):
    """The tiny BERT has 40 positions; a text of 36 tokens would be padded to 64."""
    text = " ".join("abcd"[number % 4] for number in range(34))
    found = embed_texts(load_text_encoder(fitted.folder / "bert"), [text])
    np.testing.assert_allclose(found, encode_sentences(load_encoder(fitted.folder / "bert"), [text]), atol=1e-5)


def test_a_decoder_has_the_mean_or_the_last_of_its_states(decoder):
    source, params = decoder
    for pooling in ("mean", "last"):
        encoder = load_text_encoder(source, pooling=pooling)
        (row,) = encoder.ids(["b c a"])
        states = np.asarray(HIDDEN_STATES(params, jnp.asarray([row])))[0]
        expected = states.mean(axis=0) if pooling == "mean" else states[-1]
        found = embed_texts(encoder, ["a", "b c a"])[1]
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_what_stands_behind_a_row_does_not_count(decoder):
    _, params = decoder
    tokens = jnp.asarray([[3, 4, 5, 0, 0], [3, 4, 5, 9, 8]])
    for pooling in ("mean", "last"):
        found = jax.jit(pooled_states, static_argnums=(0, 1))(DECODER, pooling, params, tokens, jnp.asarray([3, 3]))
        np.testing.assert_array_equal(found[0], found[1])


def test_a_decoder_reads_so_many_tokens_at_most(decoder):
    encoder = load_text_encoder(decoder[0], longest=2)
    assert [len(row) for row in encoder.ids(["a b c d e a b c d e", "a"])] == [2, 1]


def test_batches_cover_every_text_once_and_are_of_one_size():
    rows = [[7] * length for length in (1, 17, 3, 40, 16)]
    batches = list(batches_of(rows, 2))
    assert sorted(np.concatenate([part for part, _, _ in batches]).tolist()) == [0, 1, 2, 3, 4]
    assert [tokens.shape for _, tokens, _ in batches] == [(2, 64), (2, 16), (2, 16)]
    assert [lengths.tolist() for _, _, lengths in batches] == [[40, 17], [16, 3], [1, 1]]
    tokens, lengths = padded([[1, 2, 3]], 2)
    assert tokens[0, :4].tolist() == [1, 2, 3, 0] and lengths.tolist() == [3, 1]


def test_bad_texts_and_settings_are_named(fitted, decoder):
    encoder = load_text_encoder(fitted.folder / "bert")
    with pytest.raises(ValueError, match="text 1 is '  '"):
        embed_texts(encoder, ["a", "  "])
    with pytest.raises(ValueError, match="no text to embed"):
        embed_texts(encoder, [])
    with pytest.raises(ValueError, match="pooling is 'last'"):
        load_text_encoder(fitted.folder / "bert", pooling="last")
    broken = encoder._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, encoder.params))
    with pytest.raises(ValueError, match="vectors of 2 texts, the first of them 0, are not finite"):
        embed_texts(broken, ["a", "b"])
