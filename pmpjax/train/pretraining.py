"""`pmpjax train`: from raw text to a trained decoder in the Hugging Face format, in a run directory that survives."""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from pmpjax.costs.utilisation import peak_flops
from pmpjax.data import PackedRows, Rows, token_stream
from pmpjax.data.corpus import STEPS
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise, parameter_count, save_pretrained
from pmpjax.models.huggingface import architecture
from pmpjax.runs import read_json, write_arrays, write_json
from pmpjax.runs.files import plain, sha256
from pmpjax.runs.metrics import Metrics, read_metrics
from pmpjax.runs.pipeline import Context, Pipeline, Stage, View
from pmpjax.runs.progress import Bar
from pmpjax.train.checkpoints import load_params, save_params
from pmpjax.train.corpus import CorpusConfig, build_corpus
from pmpjax.train.generation import GenerateConfig, run_generate
from pmpjax.train.heldout import set_loss, spread_rows
from pmpjax.train.loop import Evaluation, Saving, train
from pmpjax.train.mesh import MeshConfig, check_mesh, data_share, make_mesh
from pmpjax.train.model import ModelConfig, forward_flops
from pmpjax.train.optimizers import OptimizerConfig, adamw, rate_schedule
from pmpjax.train.record import Report
from pmpjax.train.step import train_step

_NOT_DECIDING = ("mesh", "save_every", "keep", "sample")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything about a training run; the defaults are a run of minutes on two cores.

    Attributes:
        corpus: what is trained on, and what is held out to measure on.
        model: the decoder.
        length: tokens that a row predicts.
        batch: rows of a step, over all devices.
        accumulate: micro-batches that a step's gradient is summed over; the same result in less memory.
        steps: updates.
        steps_per_call: updates that the device makes before the host is asked again: 15% less CPU time a step than one
            at a time at width 256; Ctrl-C waits for their end.
        optimizer: AdamW.
        mesh: how devices share the work; decides no result but its rounding, so that a run may go on with another one.
        evaluate_every: steps between measurements of the held-out loss.
        heldout_rows: rows of the held-out text that are measured, spread evenly; 0 takes all.
        save_every: steps between checkpoints.
        keep: newest checkpoints that stay.
        seed: of the initial parameters and the order of the data.
        sample: a prompt that the trained model goes on from at the end; none by default.
    """

    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    length: int = 128
    batch: int = 16
    accumulate: int = 1
    steps: int = 600
    steps_per_call: int = 4
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(schedule="cosine"))
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluate_every: int = 100
    heldout_rows: int = 256
    save_every: int = 100
    keep: int = 2
    seed: int = 0
    sample: str | None = None

    def __post_init__(self):
        positive = ("length", "batch", "accumulate", "steps", "steps_per_call", "evaluate_every", "save_every", "keep")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0 or self.heldout_rows < 0:
            raise ValueError(f"seed and heldout_rows must not be negative: {self.seed} and {self.heldout_rows}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch} is not a multiple of accumulate, {self.accumulate}; change one of the two"
            )
        rate_schedule(self.optimizer, self.steps)  # refuses a warm-up longer than the run


def run(config: TrainConfig, out: Path) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    Stages: corpus (`build_corpus`), train (metrics/metrics.jsonl, metrics/events, params.npz, curves.npz, train.json;
    checkpoints while it runs), export (a folder that transformers opens; none with momentum, which no format holds).

    metrics.json: `heldout_loss` (nats per token), `heldout_bits_per_byte`, `train_loss` (mean of the last 20 steps),
    `parameters`, `tokens_seen`, `tokens_per_second`, `utilisation`, `host_wait`, `damaged_checkpoints`, `seed`,
    `corpus` (its counts), `stage_seconds`, and `sample` where a prompt was given.

    Raises SourceError, RunError or ValueError for what the caller can put right; the message says how.
    """
    make_mesh(config.mesh)  # refuses devices that are not there before anything is read
    with PIPELINE.open(config, out) as running:
        folders = running.build_all()
        facts, counts = read_json(folders["train"] / "train.json"), read_json(folders["corpus"] / "counts.json")
        metrics = {**facts, "seed": config.seed, "corpus": counts, "stage_seconds": dict(running.run.seconds)}
        if config.sample is not None:
            metrics["sample"] = run_generate(
                GenerateConfig(folders.get("export", out), config.sample, seed=config.seed)
            )
        write_json(running.run.directory / "metrics.json", metrics)
    return plain(metrics)


def _deciding(config: TrainConfig, *also_not: str) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(config))
    return {name: getattr(config, name) for name in fields if name not in (*_NOT_DECIDING, *also_not)}


def _corpus(at: View) -> None:
    with at.progress("corpus", STEPS) as bar:
        build_corpus(at.config.corpus, at.folder, bar)


def _train(at: View) -> None:
    config, mesh = at.config, make_mesh(at.config.mesh)
    decoder, _ = _decoder(config, at.folders["corpus"])
    check_mesh(mesh, decoder, config.batch, config.accumulate)
    if not config.model.momentum or config.sample is not None:
        architecture(decoder)  # refuses, before hours of training, what the export could not hold
    with at.progress("train", config.steps) as bar:
        build_train(config, Context(at.folder, at.folders["corpus"], config.seed, bar, mesh))


def _export(at: View) -> None:
    corpus = at.folders["corpus"]
    decoder, counts = _decoder(at.config, corpus)
    build_export(decoder, corpus, counts, at.folders["train"], at.config.length, at.folder)


def _decoder(config: TrainConfig, corpus: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    counts = read_json(corpus / "counts.json")
    return config.model.decoder(counts["vocabulary"]), counts


PIPELINE = Pipeline(
    "train",
    {
        "corpus": Stage((), lambda config: config.corpus, _corpus),
        "train": Stage(("corpus",), lambda config: _deciding(config, "corpus"), _train),
        "export": Stage(("corpus", "train"), lambda _: None, _export, lambda config: not config.model.momentum),
    },
    deciding=_deciding,
)


def build_train(config: TrainConfig, at: Context[Path]) -> None:
    """Trains on the shards of a corpus; fills the folder, and goes on from the checkpoints that it finds there."""
    corpus, mesh = at.data, at.mesh or make_mesh(config.mesh)
    decoder_config, counts = _decoder(config, corpus)
    decoder = Decoder(decoder_config)
    process, processes = data_share(mesh)
    packed = PackedRows(corpus / "tokens", "train", config.length)
    stream = token_stream(packed, batch=config.batch, seed=config.seed, process=process, processes=processes)
    heldout = _heldout(corpus, counts, config)
    loss = set_loss(decoder, heldout, config.batch // config.accumulate, mesh)
    # Nats per token times tokens per byte; the ends of documents count as tokens that have to be told.
    per_byte = counts["heldout"]["tokens"] / counts["heldout"]["bytes"] / math.log(2)

    def evaluate(params: Any) -> dict[str, Any]:
        nats = loss(params)
        return {"heldout_loss": nats, "heldout_bits_per_byte": nats * per_byte}

    tokens = config.batch * config.length
    speed = _Speed(tokens, 3 * forward_flops(decoder_config, tokens), peak_flops(list(mesh.devices.flat)))
    rates = np.asarray(jax.vmap(rate_schedule(config.optimizer, config.steps))(jnp.arange(config.steps)))

    def derive(step: int, values: Mapping[str, float]) -> dict[str, float]:
        rate = {"learning_rate": float(rates[step])} if "loss" in values else {}
        return rate | (speed.rates(values["seconds_per_step"]) if "seconds_per_step" in values else {})

    sample = jax.tree.map(lambda leaf: leaf[:1], heldout)
    identity = {
        "tokenizer": sha256(corpus / "tokenizer.json"),
        "vocabulary": counts["vocabulary"],
        "length": config.length,
    }
    folder = at.folder
    with Metrics(folder / "metrics", derive) as metrics:
        trained = train(
            train_step(
                example_losses(decoder),
                adamw(config.optimizer, config.steps),
                mesh=mesh,
                accumulate=config.accumulate,
                steps_per_call=config.steps_per_call,
            ),
            initialise(decoder, jax.random.key(config.seed), sample.tokens),
            stream.map(_rows),
            config.steps,
            saving=Saving(folder / "checkpoints", config.save_every, keep=config.keep, identity=identity),
            evaluation=Evaluation(evaluate, config.evaluate_every),
            metrics=metrics,
            progress=_show(at.bar, speed),
        )
    lines = read_metrics(folder / "metrics")
    measured = [line for line in lines if "tokens_per_second" in line]
    save_params(folder / "params", trained.params)
    write_arrays(folder / "curves", {"losses": trained.losses, "steps": trained.evaluated_at, **trained.evaluated})
    write_json(
        folder / "train.json",
        {
            "heldout_loss": float(trained.evaluated["heldout_loss"][-1]),
            "heldout_bits_per_byte": float(trained.evaluated["heldout_bits_per_byte"][-1]),
            "train_loss": float(trained.losses[-20:].mean()),
            "parameters": parameter_count(trained.params),
            "tokens_seen": config.steps * tokens,
            "tokens_per_second": _median(measured, "tokens_per_second"),
            "utilisation": _median(measured, "utilisation"),
            "host_wait": _median(measured, "host_wait"),
            "damaged_checkpoints": sum(int(line.get("damaged_checkpoints", 0)) for line in lines),
            "packed_rows": {"rows": len(packed), "dropped": packed.dropped, "padding": packed.padding},
        },
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def build_export(
    decoder: DecoderConfig, corpus: Path, counts: Mapping[str, Any], trained: Path, length: int, folder: Path
) -> None:
    """Fills `folder` with the model in the Hugging Face format: `AutoModelForCausalLM.from_pretrained(folder)`.

    Its tokenizer encodes as the corpus was encoded: one that puts tokens of its own around a text does so no longer.
    """
    written = folder / "written"  # the format's writer wants a folder of its own
    tokenizer = folder / "tokenizer.json"
    shutil.copyfile(corpus / "tokenizer.json", tokenizer)
    if Tokenizer.from_file(str(tokenizer)).num_special_tokens_to_add(False):
        write_json(tokenizer, read_json(tokenizer) | {"post_processor": None})
    shutil.rmtree(written, ignore_errors=True)
    save_pretrained(
        written,
        decoder,
        load_trained(trained),
        end_of_document=counts["end_of_document"],
        tokenizer=tokenizer,
        max_length=length,
    )
    for path in sorted(written.iterdir()):
        os.replace(path, folder / path.name)
    written.rmdir()


def load_trained(folder: Path) -> Any:
    """The final parameters, as `Decoder` takes them."""
    return load_params(folder / "params")


def _rows(batch: Mapping[str, Any]) -> Rows:
    return Rows(**{name: batch[name] for name in Rows._fields})


def _heldout(corpus: Path, counts: Mapping[str, Any], config: TrainConfig) -> Rows:
    length = min(config.length, counts["heldout"]["tokens"] - 1)  # where there is less than a row, one that fits
    packed = PackedRows(corpus / "tokens", "heldout", length, keep_last=True)
    rows = _rows(
        {name: np.stack([row[name] for row in map(packed.__getitem__, range(len(packed)))]) for name in Rows._fields}
    )
    return spread_rows(rows, config.heldout_rows) if config.heldout_rows else rows


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    """Over the second half of the run, whose first lines are those of a warm-up; None for a run that ended at once."""
    values = [line[name] for line in lines[len(lines) // 2 :]]
    return float(np.median(values)) if values else None


class _Speed:
    def __init__(self, tokens: int, flops: float, peak: float) -> None:
        self._tokens, self._flops, self._peak = tokens, flops, peak

    def rates(self, seconds_per_step: float) -> dict[str, float]:
        return {
            "tokens_per_second": self._tokens / seconds_per_step,
            "utilisation": self._flops / seconds_per_step / self._peak,
        }


def _show(bar: Bar, speed: _Speed) -> Callable[[Report], None]:
    def show(report: Report) -> None:
        fields: dict[str, Any] = {"loss": report.loss}
        if report.seconds is not None:
            rates = speed.rates(report.seconds / report.steps)
            fields |= {"tokens/s": f"{rates['tokens_per_second']:,.0f}", "MFU": f"{rates['utilisation']:.1%}"}
        bar.update(report.steps, **fields)

    return show
