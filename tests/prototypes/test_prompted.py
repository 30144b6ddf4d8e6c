"""Prompt files: a model's scores of label words, then calibration; and files that mean something else."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.cli import main
from pmpjax.data import train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, initialise, save_pretrained
from pmpjax.prototypes.prompted import Template, label_scores, load_model, read_prompt_file, scores_of
from pmpjax.runs.progress import progress
from tests.pretrained import needs_models

TEMPLATE = Template("{text} is", {"animal": " cat", "thing": " hat"}, separator=".\n", begin="the ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model with its tokenizer, and a table of 40 labelled texts."""
    folder = tmp_path_factory.mktemp("prompted")
    tokenizer = train_tokenizer(["the cat and the hat"] * 3, 270)
    decoder = Decoder(DecoderConfig(vocabulary=270, width=16, layers=1, heads=2, key_value_heads=1, hidden=32))
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_pretrained(folder / "model", decoder.config, params, tokenizer=folder / "tokenizer.json")
    rows = [f"{'cat' if n % 2 else 'hat'} {n},{'animal' if n % 2 else 'thing'}\n" for n in range(40)]
    (folder / "texts.csv").write_text("text,label\n" + "".join(rows))
    return folder


@pytest.fixture
def prompt(folder):
    def written(**changes):
        fields = {
            "model": str(folder / "model"),
            "data": "texts.csv",
            "template": TEMPLATE.text,
            "options": TEMPLATE.options,
            "demonstrations": 1,
            **changes,
        }
        path = folder / "prompt.json"
        path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
        return path

    return written


def test_scores_are_the_decoders_own_after_the_whole_prompt(folder):
    model = load_model(folder / "model")
    demonstrations = [("hat 3", "thing"), ("cat {text}", "animal")]
    found = label_scores(model, TEMPLATE, ["cat 1", "hat {text} 22"], demonstrations)
    for text, scores in zip(["cat 1", "hat {text} 22"], found, strict=True):
        before = "the hat 3 is hat.\ncat {text} is cat.\n"
        ids = [part for piece in (before, f"{text} is") for part in model.tokenizer.encode(piece).ids]
        for word, score in zip(TEMPLATE.options.values(), scores, strict=True):
            answer = model.tokenizer.encode(word).ids
            logits = model.decoder.apply({"params": model.params}, jnp.asarray([[*ids, *answer]]))[0]
            expected = jax.nn.log_softmax(logits)[len(ids) - 1 : -1][np.arange(len(answer)), np.asarray(answer)].mean()
            np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_demonstrations_fitted_and_tested_texts_are_apart(prompt):
    found = scores_of(prompt(fit=10, test=5), progress)
    assert found["logp"].shape == (15, 2) and found["fit"].sum() == 10 and found["content_free"].shape == (3, 2)
    assert list(found["classes"]) == ["animal", "thing"]
    everything = scores_of(prompt(fit=1000, test=1000), progress)
    assert len(everything["logp"]) == 40 - 4 - 2  # less the dev split and the demonstrations


def test_the_command_makes_the_scores_then_calibrates_them(prompt, capsys):
    path = prompt(fit=20, test=8)
    assert main(["calibrate", str(path), "--starts", "3"]) == 0
    shown = capsys.readouterr().out
    assert "supervised" in shown and "animal" in shown
    assert main(["calibrate", str(path.with_suffix(".npz")), "--starts", "3"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"template": "no place"}, "does not hold {text} exactly once"),
        ({"template": None}, "lacks template"),
        ({"option": {}}, "no key 'option'; did you mean options?"),
        ({"options": {"animal": " cat"}}, "at least two classes"),
        ({"options": {"animal": " cat", "thing": 3}}, "at least two classes, each with its word"),
        ({"fit": 0}, "fit is 0, expected at least 1"),
        ({"test": "all"}, "test is 'all', expected int"),
    ],
)
def test_a_prompt_file_that_means_something_else_is_named(prompt, changes, named):
    with pytest.raises(ValueError) as caught:
        read_prompt_file(prompt(**changes))
    assert named in str(caught.value)


def test_data_and_words_that_do_not_fit_are_named(prompt, tmp_path, capsys):
    path = prompt(options={"animal": " cat", "plant": " hat"})
    assert main(["calibrate", str(path)]) == 2
    assert "the classes of texts.csv are animal, thing" in capsys.readouterr().err
    assert main(["calibrate", str(prompt(options={"animal": " cat", "thing": " cat"}))]) == 2
    assert "give each class its own word" in capsys.readouterr().err
    assert main(["calibrate", str(prompt(demonstrations=100))]) == 2
    assert "expected 100" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[]")
    assert main(["calibrate", str(tmp_path / "list.json")]) == 2
    assert "expected an object" in capsys.readouterr().err


@pytest.mark.models
@needs_models
def test_a_real_model_prefers_a_letter_and_calibration_mends_it(tmp_path):
    fields = {"model": "smollm2", "data": "wordnet:food,person", "template": "{text} It is a", "fit": 20, "test": 20}
    options = {"food": " food", "person": " person"}
    path = tmp_path / "prompt.json"
    path.write_text(json.dumps({**fields, "options": options}))
    found = scores_of(path, progress)
    gaps = found["logp"][:, 1] - found["logp"][:, 0]
    assert np.corrcoef(gaps, found["labels"])[0, 1] > 0.5
