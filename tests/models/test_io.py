"""Hugging Face folders: what transformers computed for them (golden/make.py), the way out and back, bad folders."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pmpjax.data import Rows, train_tokenizer
from pmpjax.models import (
    Decoder,
    DecoderConfig,
    generate,
    load_pretrained,
    mean_token_loss,
    recorded,
    save_pretrained,
    stack_layers,
    unstack_layers,
)

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("mistral", "llama", "gpt2")
CONFIG = DecoderConfig(vocabulary=300, width=8, layers=1, heads=2, key_value_heads=1, hidden=12, window=4)


@functools.cache
def golden(kind):
    config, params = load_pretrained(GOLDEN / kind)
    return Decoder(config), params, load_file(GOLDEN / kind / "expected.safetensors")


def tensors_of(folder):
    return {name: array for path in folder.glob("model*.safetensors") for name, array in load_file(path).items()}


def close(found, expected, tolerance):
    """To a tolerance relative to the largest number of the array."""
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def copied(tmp_path):
    return lambda kind: Path(
        shutil.copytree(GOLDEN / kind, tmp_path / kind, ignore=lambda *_: ["expected.safetensors"])
    )


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def params_of(config, seed=0):
    """Noise in the shapes of the decoder's parameters; nothing is compiled."""
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_every_block_are_those_of_transformers(kind, scan_layers):
    _, _, expected = golden(kind)
    config, params = load_pretrained(GOLDEN / kind, scan_layers=scan_layers)
    found = jax.jit(functools.partial(recorded, Decoder(config)))(params, expected["tokens"])
    close(found.logits, expected["logits"], 1e-5)
    assert len(found.blocks) == 2
    for index, block in enumerate(found.blocks):
        close(block, expected[f"block.{index}"], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_each_parameter_is_that_of_transformers(kind, tmp_path):
    decoder, params, expected = golden(kind)
    tokens = jnp.asarray(expected["tokens"])
    loss = mean_token_loss(decoder)

    def mean(params):
        total, count = loss(params, Rows(tokens, np.full(len(tokens), tokens.shape[1])))
        return total / count

    save_pretrained(tmp_path / "gradient", decoder.config, jax.jit(jax.grad(mean))(params))
    found = load_file(tmp_path / "gradient" / "model.safetensors")
    assert {f"gradient.{name}" for name in found} == {name for name in expected if name.startswith("gradient.")}
    for name, gradient in found.items():
        close(gradient, expected[f"gradient.{name}"], 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_the_cache_is_that_of_transformers_token_for_token(kind):
    decoder, params, expected = golden(kind)
    lengths = np.array([7, 4, 1])
    found = generate(decoder, params, Rows(expected["tokens"][:, :7], lengths), 24)
    assert np.asarray(found).tolist() == [expected[f"generated.{index}"].tolist() for index in range(3)]


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_saving_what_was_loaded_gives_the_same_tensors(kind, scan_layers, tmp_path):
    config, params = load_pretrained(GOLDEN / kind, scan_layers=scan_layers)
    save_pretrained(tmp_path / "deep" / "again", config, params)
    before, after = tensors_of(GOLDEN / kind), tensors_of(tmp_path / "deep" / "again")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == np.float32
        np.testing.assert_array_equal(after[name], array)
    assert load_pretrained(tmp_path / "deep" / "again", scan_layers=scan_layers)[0] == config
    said = [json.loads((path / "config.json").read_text()) for path in (GOLDEN / kind, tmp_path / "deep" / "again")]
    known = said[0].keys() & said[1].keys() - {"max_position_embeddings"}
    assert {name: said[0][name] for name in known} == {name: said[1][name] for name in known}


def test_stacked_and_unrolled_parameters_are_each_other():
    params = params_of(dataclasses.replace(CONFIG, layers=11))
    stacked = stack_layers(params)
    # Ten comes after nine, not after one.
    np.testing.assert_array_equal(
        stacked["trunk"]["layers"]["up"]["kernel"][10], params["trunk"]["layers_10"]["up"]["kernel"]
    )
    again = unstack_layers(stacked)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), again, params)))
    with pytest.raises(ValueError, match="stacked already"):
        stack_layers(stacked)
    with pytest.raises(ValueError, match="unrolled already"):
        unstack_layers(params)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_narrow_weights_become_float32(dtype, copied):
    folder = copied("mistral")
    narrow = {name: array.astype(dtype) for name, array in load_file(folder / "model.safetensors").items()}
    save_file(narrow, folder / "model.safetensors")
    _, params = load_pretrained(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["output"], narrow["lm_head.weight"].astype(np.float32))


def test_older_files_are_read(copied):
    folder = copied("gpt2")
    # The first GPT-2 has no prefix, its causal masks beside the parameters, and a copy of the tied embedding.
    tensors = {name.removeprefix("transformer."): a for name, a in load_file(folder / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 40, 40), np.float32))
    tensors["lm_head.weight"] = tensors["wte.weight"]
    save_file(tensors, folder / "model.safetensors")
    config, params = load_pretrained(folder)
    assert config == golden("gpt2")[0].config
    np.testing.assert_array_equal(params["trunk"]["embedding"], golden("gpt2")[1]["trunk"]["embedding"])

    folder = copied("mistral")
    for rope in ({"rope_parameters": None, "rope_theta": 1e3}, {"rope_parameters": {"rope_theta": 1e3}}):
        rewrite(folder, **rope)
        assert load_pretrained(folder)[0] == golden("mistral")[0].config
    rewrite(folder, sliding_window=None)
    assert load_pretrained(folder)[0].window is None


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("llama", {"model_type": "phi"}, "'phi'; known ones: mistral, llama, gpt2"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "rope_type is 'llama3'",
        ),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_scaling: type is 'linear'"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "one object for all layers"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"hidden_size": "24"}, "hidden_size is '24'"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers is None"),
        ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ("llama", {"model_type": ["llama"]}, "known ones"),
        ("llama", {"layer_types": 2}, "layer_types is 2"),
        ("llama", {"num_key_value_heads": 4}, "config.json: key_value_heads must divide heads"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("mistral", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt2", {"activation_function": "relu"}, "'relu'; this decoder has 'gelu_new' or"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ],
)
def test_what_the_decoder_has_not_is_refused_by_name(kind, changes, said, copied):
    folder = copied(kind)
    rewrite(folder, **changes)
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    assert said in str(error.value) and "config.json" in str(error.value)


def test_tensors_that_do_not_fit_are_named(copied):
    folder = copied("mistral")
    path = folder / "model.safetensors"
    whole = load_file(path)
    broken = dict(whole)
    del broken["model.norm.weight"]
    broken["score.weight"] = np.zeros((2, 20), np.float32)
    broken["model.embed_tokens.weight"] = np.zeros((54, 20), np.float32)
    broken["lm_head.weight"] = np.zeros((53, 20), np.int8)
    save_file(broken, path)
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    for said in (
        str(folder),
        "1 missing: model.norm.weight [20]",
        "1 unknown: score.weight",
        "model.embed_tokens.weight is [54, 20], expected [53, 20]",
        "lm_head.weight is I8",
    ):
        assert said in str(error.value)
    save_file(whole, path)
    rewrite(folder, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"tie_word_embeddings is true, and lm_head\.weight is another matrix"):
        load_pretrained(folder)


def test_damaged_and_absent_files_are_named(copied, tmp_path):
    folder = copied("llama")
    shard, index = folder / "model-00002-of-00002.safetensors", folder / "model.safetensors.index.json"
    content = shard.read_bytes()
    for cut in (0, 4, 100, len(content) - 1):
        shard.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"model-00002.*not a whole safetensors file.*copy it again"):
            load_pretrained(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002.*is not there"):
        load_pretrained(folder)
    shard.write_bytes(content)
    said = json.loads(index.read_text())
    for weights, complaint in (
        ({**said["weight_map"], "ghost": shard.name}, "ghost in model-00002"),
        ({"ghost": f"../{shard.name}"}, "in this folder"),
        ({"ghost": [shard.name]}, "in this folder"),
        (None, "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(ValueError, match=complaint):
            load_pretrained(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor .*but model-00001"):
        load_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        load_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sub_norm": True}, "Mistral or Llama holds this decoder: sub_norm is True, the format holds False"),
        ({"positions": "alibi"}, "positions is 'alibi', the format holds 'rotary'"),
        ({"positions": "xpos"}, "positions is 'xpos'"),
        ({"biases": True}, "biases is True"),
        ({"feed_forward": "gelu"}, "feed_forward is 'gelu'"),
        (
            {"norm": "layer"},
            "GPT-2 holds this decoder: feed_forward is 'swiglu'",
        ),
        ({"positions": "learned", "max_length": 8, "window": 4}, "window is 4, the format holds None"),
    ],
)
def test_what_no_format_holds_is_refused_by_field(changes, said, tmp_path):
    with pytest.raises(ValueError) as error:
        save_pretrained(tmp_path / "model", dataclasses.replace(CONFIG, **changes), {})
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_parameters_of_another_config_are_refused(tmp_path):
    params = params_of(CONFIG)
    with pytest.raises(ValueError, match=r"missing trunk/layers_1/attention_norm/scale.* and 3 more; unknown none"):
        save_pretrained(tmp_path / "model", dataclasses.replace(CONFIG, layers=2), params)
    with pytest.raises(ValueError, match=r"missing output; unknown none"):
        save_pretrained(tmp_path / "model", dataclasses.replace(CONFIG, tied_embeddings=False), params)
    with pytest.raises(ValueError, match=r"gate/kernel makes .*gate_proj\.weight of shape \[12, 8\]; .* \[13, 8\]"):
        save_pretrained(tmp_path / "model", dataclasses.replace(CONFIG, hidden=13), params)
    with pytest.raises(ValueError, match="end_of_document is 300; the model's ids are 0 to 299"):
        save_pretrained(tmp_path / "model", CONFIG, params, end_of_document=300)
    assert not list(tmp_path.iterdir())


def test_the_tokenizer_goes_along_and_must_fit(tmp_path):
    train_tokenizer(["the cat and the hat"] * 3, 270).save(str(tmp_path / "tokenizer.json"))
    params = params_of(CONFIG)

    def save(name, config=CONFIG, params=params, **options):
        save_pretrained(tmp_path / name, config, params, **{"tokenizer": tmp_path / "tokenizer.json", **options})

    save("model", end_of_document=0, max_length=64)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    said = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert said["eos_token"] == said["bos_token"] == "<|end|>" and said["model_max_length"] == 64
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (said["eos_token_id"], said["max_position_embeddings"], said["model_type"]) == (0, 64, "mistral")
    small = dataclasses.replace(CONFIG, vocabulary=100)
    with pytest.raises(ValueError, match=r"has ids up to .*, the model up to 99"):
        save("other", small, params_of(small))
    with pytest.raises(ValueError, match="no token of id 299"):
        save("other", end_of_document=299)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json is not a tokenizer\.json"):
        save("other", tokenizer=tmp_path / "broken.json")
    with pytest.raises(FileNotFoundError, match="name a tokenizer"):
        save("other", tokenizer=tmp_path / "none.json")
    assert not (tmp_path / "other").exists()


def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    params = params_of(CONFIG)

    def fails(*arguments, **options):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("pmpjax.models.io.save_file", fails)
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(tmp_path / "model", CONFIG, params)
    assert not list(tmp_path.iterdir())
    (tmp_path / "model").mkdir()
    save_pretrained(tmp_path / "model", CONFIG, params)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(FileExistsError, match="is there already"):
        save_pretrained(tmp_path / "model", CONFIG, params_of(CONFIG, seed=1))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
