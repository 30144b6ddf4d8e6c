"""Text from a model: it goes on from the prompt, ends with the document, and the seed decides it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from pmpjax.data import Rows, train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, initialise, save_pretrained
from pmpjax.models.pretrained_tokenizers import pretrained_tokenizer
from pmpjax.models.search import Beams, Ending, Sampled, beam_search, no_repeat
from pmpjax.runs import RunError
from pmpjax.train import generation
from pmpjax.train.generation import GenerateConfig, exported, run_generate, write_on

DECODER = Decoder(DecoderConfig(vocabulary=270, width=16, layers=1, heads=2, key_value_heads=1, hidden=32))


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(["the cat and the hat"] * 3, 270)
    return initialise(DECODER, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)), tokenizer


def settings(**changes):
    return GenerateConfig(Path("unused"), **{"prompt": "the cat <|end|> é", "tokens": 6, **changes})


def test_it_goes_on_from_the_prompt_and_the_seed_decides(parts):
    texts = [write_on(DECODER, *parts, settings(temperature=1.5, seed=seed)) for seed in (0, 0, 1)]
    assert all(text.startswith("the cat <|end|> é") for text in texts)  # a special token's text is text
    assert texts[0] == texts[1] != texts[2]


def test_the_end_of_a_document_ends_the_text(parts, monkeypatch):
    _, tokenizer = parts
    cat = tokenizer.encode("cat").ids
    drawn = sampled([*cat, 0], [Ending.ENDED])
    monkeypatch.setattr("pmpjax.train.generation.sample", lambda *_, **__: drawn)
    assert write_on(DECODER, *parts, settings(prompt="the ")) == "the cat"


def sampled(tokens, status):
    """One text, as `sample` returns it."""
    return Sampled(
        jnp.asarray([tokens], jnp.int32), jnp.asarray([len(tokens)]), jnp.zeros((1, len(tokens))), jnp.asarray(status)
    )


def test_beams_and_what_must_not_be_repeated(parts):
    params, tokenizer = parts
    ids = tokenizer.encode("the cat").ids
    prompts = Rows(np.asarray([ids], np.int32), np.asarray([len(ids)], np.int32))
    best = beam_search(DECODER, params, prompts, 6, Beams(3, length_penalty=-1.0), ends=(0,), mask=no_repeat(1, 270))
    found = write_on(DECODER, *parts, settings(prompt="the cat", beams=3, no_repeat=1, length_penalty=-1.0))
    tokens = np.asarray(best.tokens[0, 0])[: int(best.lengths[0, 0])]
    assert found == tokenizer.decode([*ids, *tokens[tokens > 0]])
    once = generation._written(DECODER, params, tokenizer, [*ids], settings(tokens=30, no_repeat=1))
    assert len({*once, *ids}) == len(once) + len(set(ids)) > 5
    with pytest.raises(ValueError, match="beams must be positive, no_repeat not negative and length_penalty finite"):
        settings(beams=0)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(ValueError, match="logits are not finite after 0 tokens"):
        write_on(DECODER, broken, tokenizer, settings())


def add_ends(tokenizer, *, sequence):
    """Puts <s> before a text and </s> behind it; in a sequence of processors, as Llama 3 has them."""
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), template]) if sequence else template
    )


@pytest.fixture
def folder(parts, tmp_path):
    """A folder of a model whose tokenizer knows <s> and </s> and adds neither."""
    params, tokenizer = parts
    own = Tokenizer.from_str(tokenizer.to_str())
    own.add_special_tokens(["<s>", "</s>"])
    own.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "model"
    save_pretrained(path, DECODER.config, params, end_of_document=0, tokenizer=tmp_path / "tokenizer.json")
    return path


def change(path, **settings):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


def read_by_the_model(folder, monkeypatch):
    """The ids that the model is given for the prompt "the <s> cat", and those of that text alone."""
    given = []

    def record(decoder, params, prompts, steps, *_, **__):
        given.extend(prompts.tokens[0, : int(prompts.lengths[0])].tolist())
        return sampled([0], [Ending.ENDED])

    monkeypatch.setattr(generation, "sample", record)
    assert run_generate(GenerateConfig(folder, "the <s> cat")) == "the <s> cat"
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.post_processor = processors.ByteLevel()
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    text = plain.encode("the <s> cat").ids
    assert plain.token_to_id("<s>") not in text and len(text) > 3
    return given, text, plain.token_to_id("<s>")


@pytest.mark.parametrize("sequence", [False, True])
def test_what_the_tokenizer_puts_before_a_text_is_read_and_what_it_puts_behind_is_not(folder, monkeypatch, sequence):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    add_ends(tokenizer, sequence=sequence)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(folder / "tokenizer.json"))
    given, text, first = read_by_the_model(folder, monkeypatch)
    assert given == [first, *text]
    for settings in ({"add_bos_token": False}, {"add_bos_token": True, "bos_token": "<s>"}):
        change(folder / "tokenizer_config.json", **settings)
        assert read_by_the_model(folder, monkeypatch)[0] == given, "once, and whatever the other file says"


@pytest.mark.parametrize(
    ("settings", "names", "begins"),
    [
        ({"add_bos_token": True, "bos_token": "<s>"}, {}, True),
        ({"add_bos_token": True, "bos_token": {"content": "<s>", "special": True}, "add_eos_token": True}, {}, True),
        ({"add_bos_token": True, "bos_token": None}, {"bos_token": "<s>"}, True),
        ({"add_bos_token": False, "bos_token": "<s>"}, {}, False),
        ({"bos_token": "<s>"}, {"bos_token": "<s>"}, False),
        ({}, {}, False),
    ],
)
def test_a_first_token_that_the_tokenizers_settings_ask_for(folder, monkeypatch, settings, names, begins):
    if settings:
        change(folder / "tokenizer_config.json", **settings)
    else:
        (folder / "tokenizer_config.json").unlink()
    if names:
        change(folder / "special_tokens_map.json", **names)
    given, text, first = read_by_the_model(folder, monkeypatch)
    assert given == ([first, *text] if begins else text)


def test_a_tokenizer_that_cannot_begin_a_text_is_named(parts, folder):
    settings = folder / "tokenizer_config.json"
    for token in (None, "<bos>"):
        change(settings, add_bos_token=True, bos_token=token)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: add_bos_token is true and bos_token is"):
            pretrained_tokenizer(folder)
    settings.write_text("[")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        pretrained_tokenizer(folder)
    settings.unlink()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<{number}>" for number in range(20)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<19> $A", special_tokens=[("<19>", tokenizer.token_to_id("<19>"))]
    )
    with pytest.raises(ValueError, match=r"the id \d+, the model's go up to 269; give the tokenizer\.json"):
        write_on(DECODER, parts[0], tokenizer, GenerateConfig(folder, "the"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json"):
        pretrained_tokenizer(folder)


@pytest.mark.parametrize("field", [{"tokens": 0}, {"top_p": 0.0}, {"temperature": -1.0}, {"seed": -1}])
def test_impossible_settings_are_refused_by_name(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        settings(**field)


def test_a_folder_without_a_model_says_what_is_missing(parts, tmp_path):
    with pytest.raises(ValueError, match="the prompt has no token"):
        write_on(DECODER, *parts, settings(prompt=""))
    with pytest.raises(RunError, match=r"config.json, tokenizer.json not found; give a run"):
        exported(tmp_path)
    (tmp_path / "train.partial").mkdir()
    with pytest.raises(RunError, match="is not finished; the same `pmpjax train` command goes on"):
        exported(tmp_path)
