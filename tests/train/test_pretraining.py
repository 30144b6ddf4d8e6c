"""The training run: what it writes, what it measures, and that stopping it anywhere changes nothing."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from pmpjax.costs.utilisation import peak_flops
from pmpjax.data import PackedRows, Rows
from pmpjax.models import Decoder, load_pretrained, mean_token_loss
from pmpjax.models.search import Ending, Sampled
from pmpjax.runs import RunError
from pmpjax.runs.metrics import read_metrics
from pmpjax.train import MeshConfig, OptimizerConfig, generation
from pmpjax.train import pretraining as module
from pmpjax.train.corpus import CorpusConfig
from pmpjax.train.generation import GenerateConfig, run_generate
from pmpjax.train.model import ModelConfig
from pmpjax.train.pretraining import TrainConfig, build_export, load_trained, run
from tests.corpora import write_texts


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, count, seed in (("train", 60, 0), ("heldout", 20, 1)):
        write_texts(folder / f"{name}.jsonl", 0, count, seed)
    return TrainConfig(
        corpus=CorpusConfig(
            source=(str(folder / "train.jsonl"),), heldout=str(folder / "heldout.jsonl"), vocabulary=300
        ),
        model=ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, hidden=32),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5, schedule="cosine"),
        length=16,
        batch=8,
        steps=30,
        evaluate_every=10,
        heldout_rows=0,
        save_every=7,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(config, out)


def test_the_metrics_say_what_was_measured(config, whole):
    out, metrics = whole
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["tokens_seen"] == 30 * 8 * 16 and metrics["damaged_checkpoints"] == 0
    assert metrics["stage_seconds"].keys() == {"corpus", "train", "export"}
    lines = read_metrics(out / "train" / "metrics")
    assert [line["step"] for line in lines if "loss" in line] == list(range(30))
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates[0] == 0 and max(rates) == rates[5] == pytest.approx(1e-2) and rates[-1] < 2e-3
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    assert len(heldout) == 4 and heldout[-1] < heldout[0] - 0.3
    assert heldout[-1] == metrics["heldout_loss"]
    speeds = [line for line in lines if "tokens_per_second" in line]
    assert speeds and all(line["tokens_per_second"] > 0 and 0 <= line["host_wait"] <= 1 for line in speeds)
    assert list((out / "train" / "metrics" / "events").iterdir())


def test_held_out_loss_and_bits_a_byte_are_those_of_the_text(config, whole):
    out, metrics = whole
    rows = PackedRows(out / "corpus" / "tokens", "heldout", 16, keep_last=True)
    batch = {name: np.stack([rows[r][name] for r in range(len(rows))]) for name in Rows._fields}
    decoder = Decoder(config.model.decoder(metrics["corpus"]["vocabulary"]))
    total, count = jax.jit(mean_token_loss(decoder))(load_trained(out / "train"), Rows(**batch))
    assert metrics["heldout_loss"] == pytest.approx(float(total / count), rel=1e-5)
    facts = metrics["corpus"]["heldout"]
    assert count == facts["tokens"] - facts["documents"]  # each token is predicted once but the first of a document
    nats = float(total / count) * facts["tokens"]
    assert metrics["heldout_bits_per_byte"] == pytest.approx(nats / math.log(2) / facts["bytes"], rel=1e-5)


def test_the_export_is_the_trained_model_with_its_tokenizer(config, whole):
    out, metrics = whole
    found, params = load_pretrained(out / "export")
    assert found == config.model.decoder(metrics["corpus"]["vocabulary"])
    jax.tree.map(np.testing.assert_array_equal, params, load_trained(out / "train"))
    assert (out / "export" / "tokenizer.json").read_bytes() == (out / "corpus" / "tokenizer.json").read_bytes()
    text = run_generate(GenerateConfig(out, "the gradient", tokens=8))
    assert text.startswith("the gradient")
    again = run(dataclasses.replace(config, sample="the gradient"), out)
    assert again["sample"].startswith("the gradient") and "sample" not in metrics


def test_the_exports_tokenizer_begins_no_text_as_the_corpus_began_none(config, whole, tmp_path, monkeypatch):
    out, metrics = whole
    tokenizer = Tokenizer.from_file(str(out / "corpus" / "tokenizer.json"))
    plain = tokenizer.encode("the gradient", add_special_tokens=False).ids
    ends = processors.TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer.post_processor = ends  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("the gradient").ids == [0, *plain, 0]
    decoder = config.model.decoder(metrics["corpus"]["vocabulary"])
    (tmp_path / "export").mkdir()
    build_export(decoder, tmp_path, metrics["corpus"], out / "train", 16, tmp_path / "export")
    given = []

    def record(decoder, params, prompts, steps, *_, **__):
        given.extend(prompts.tokens[0].tolist())
        return Sampled(jnp.zeros((1, 1), jnp.int32), jnp.ones(1, int), jnp.zeros((1, 1)), jnp.full(1, Ending.ENDED))

    monkeypatch.setattr(generation, "sample", record)
    for folder in (tmp_path / "export", out):
        given.clear()
        run_generate(GenerateConfig(folder, "the gradient"))
        assert given == plain
    exported = Tokenizer.from_file(str(tmp_path / "export" / "tokenizer.json"))
    assert exported.encode("the gradient").ids == plain and exported.decode(plain) == "the gradient"


def test_a_model_that_no_export_holds_is_refused_before_training(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build_train", lambda *_: pytest.fail("trained"))
    windowed = dataclasses.replace(config.model, preset="scorer-125m", window=8)  # GPT-2 has no window
    with pytest.raises(ValueError, match="window"):
        run(dataclasses.replace(config, model=windowed), tmp_path / "run")


@pytest.mark.parametrize(("moment", "step"), [(2, 8), (5, 16)])
def test_stopped_by_ctrl_c_it_saves_and_goes_on_to_the_same_bytes(config, whole, tmp_path, monkeypatch, moment, step):
    out = tmp_path / "run"
    calls = []

    def check():
        calls.append(None)
        if len(calls) == moment + 1:  # asked before each call
            raise KeyboardInterrupt

    monkeypatch.setattr("pmpjax.train.loop.check", check)
    with pytest.raises(KeyboardInterrupt):
        run(config, out)
    assert str(step) in {path.name for path in (out / "train.partial" / "checkpoints").iterdir()}
    metrics = run(config, out)
    assert len(calls) == 1 + 9  # calls end at each fourth step and each tenth; none was made twice
    for name in ("params.npz", "curves.npz"):
        assert (out / "train" / name).read_bytes() == (whole[0] / "train" / name).read_bytes()
    for name in ("heldout_loss", "heldout_bits_per_byte", "train_loss"):
        assert metrics[name] == whole[1][name]

    def losses(folder):
        return [(line["step"], line["loss"]) for line in read_metrics(folder / "train" / "metrics") if "loss" in line]

    assert losses(out) == losses(whole[0])


def test_a_complete_run_is_read_and_another_setting_refused(config, whole, monkeypatch):
    out, metrics = whole
    monkeypatch.setattr(module, "build_train", lambda *_: pytest.fail("trained again"))
    again = run(dataclasses.replace(config, mesh=MeshConfig(data=1), save_every=9), out)  # these decide no result
    assert again["heldout_loss"] == metrics["heldout_loss"]
    with pytest.raises(RunError, match="steps: 30 before, 31 now"):
        run(dataclasses.replace(config, steps=31), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 9, "accumulate": 2}, "batch 9 is not a multiple of accumulate, 2"),
        ({"steps": 5}, "steps 5, warmup_steps 5; lower warmup_steps"),
        ({"seed": -1}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_the_peak_of_known_devices_is_the_data_sheets():
    class Device:
        platform = "gpu"
        device_kind = "NVIDIA H100 80GB HBM3"

    assert peak_flops([Device()] * 2) == 2 * 989e12
    Device.device_kind = "NVIDIA H100 PCIe"
    assert peak_flops([Device()]) == 756e12


def test_momentum_attention_is_trained_and_not_exported(config, tmp_path):
    with_momentum = dataclasses.replace(config, steps=8, model=dataclasses.replace(config.model, momentum=0.3))
    metrics = run(with_momentum, tmp_path / "run")
    assert np.isfinite(metrics["heldout_loss"]) and not (tmp_path / "run" / "export").exists()
    assert (tmp_path / "run" / "train" / "params.npz").exists()
    with pytest.raises(ValueError, match="momentum"):
        run(dataclasses.replace(with_momentum, sample="a"), tmp_path / "other")
