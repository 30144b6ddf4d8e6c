"""`pmpjax context build|predict|show` from a table to predictions, on a model that is noise."""

import json

import jax
import jax.numpy as jnp
import pytest

from pmpjax.cli import main
from pmpjax.data import train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, initialise, save_pretrained


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model's folder, and a table of 40 texts in two classes."""
    folder = tmp_path_factory.mktemp("command")
    rows = [(f"{kind} thing number {number}", kind) for kind in ("red", "blue") for number in range(20)]
    train_tokenizer([text for text, _ in rows], 280).save(str(folder / "tokenizer.json"))
    config = DecoderConfig(vocabulary=280, width=16, layers=2, heads=4, key_value_heads=2, hidden=24)
    params = initialise(Decoder(config), jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    save_pretrained(folder / "model", config, params, tokenizer=folder / "tokenizer.json")
    (folder / "table.csv").write_text("text,label\n" + "".join(f"{text},{kind}\n" for text, kind in rows))
    return folder


@pytest.mark.slow
def test_a_table_becomes_a_context_and_predictions(places, capsys):
    model, table, out = str(places / "model"), str(places / "table.csv"), str(places / "run")
    begin = ["context", "build", "--model", model, "--task", table, "--per-class", "4", "--size", "3", "--out", out]
    assert main(begin) == 0
    told = capsys.readouterr()
    assert "encode groups: 3/3" in told.err and "demonstrations" in told.out
    file = str(places / "run" / "context" / "context.safetensors")
    assert main(["context", "show", "--context", file]) == 0
    told = capsys.readouterr().out
    assert "3, of at most" in told and "blue, red" in told and "2 layers, width 16" in told

    answers = places / "answers"
    more = ["--learn-weights", "2", "--sweeps", "2", "--attention.temperature", "0.9", "--out", str(answers)]
    assert main(["context", "predict", "--context", file, *more]) == 0
    metrics = json.loads((answers / "predict" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (answers / "predict" / "predictions.jsonl").read_text().splitlines()]
    assert metrics["groups"] == 3 and len(metrics["log weights"]) == 3 and 0 <= metrics["accuracy"] <= 1
    assert metrics["texts"] == len(lines) == sum(metrics["predicted"].values())
    assert {line["label"] for line in lines} <= {"blue", "red"}
    assert sum(map(sum, metrics["confusion"])) == len(lines)
    alone = metrics["each group alone"]
    assert alone["texts"] == min(16, len(lines)) and len(alone["accuracies"]) == 3
    told = capsys.readouterr()
    assert "each group alone: " in told.err and f"on {alone['texts']} texts" in told.out
    page = (answers / "predict" / "report.html").read_text()
    assert (
        "Answers behind a context" in page
        and "learned log-weight" in page
        and (answers / "predict" / "groups.png").exists()
    )

    again = [
        "context",
        "predict",
        "--context",
        file,
        "--split",
        "train",
        "--each-group",
        "0",
        "--out",
        str(places / "t"),
    ]
    assert main(again) == 0
    metrics = json.loads((places / "t" / "predict" / "metrics.json").read_text())
    assert metrics["left out, shown or learned on"] == 8 and metrics["texts"] == 28 - 8
    single = ["context", "predict", "--context", file, "--texts", "red thing", "--out", str(places / "single")]
    assert main(single) == 0
    assert "they have no labels to compare with" in (places / "single" / "predict" / "report.html").read_text()
    (places / "table.csv").write_text((places / "table.csv").read_text() + "green thing,red\n")
    assert main([*again[:-1], str(places / "u")]) == 2
    assert "has changed since the context was built" in capsys.readouterr().err


def test_mistakes_are_one_line(places, capsys):
    assert main(["context", "show", "--context", str(places / "none.safetensors")]) == 2
    assert "is not there; write it by `pmpjax context build`" in capsys.readouterr().err
