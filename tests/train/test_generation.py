"""Text from a model: it goes on from the prompt, ends with the document, and the seed decides it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, initialise
from pmpjax.runs import RunError
from pmpjax.train.generation import GenerateConfig, exported, write_on

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
    drawn = np.asarray([[*cat, 0, *cat, *cat]])
    monkeypatch.setattr("pmpjax.train.generation.generate", lambda *_, **__: drawn)
    assert write_on(DECODER, *parts, settings(prompt="the ")) == "the cat"


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
