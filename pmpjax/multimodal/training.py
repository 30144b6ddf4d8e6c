"""`pmpjax kosmos train`: a small Kosmos on generated scenes, measured and shown, in a run directory that survives."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.data import token_stream
from pmpjax.data.tokenizer import load_tokenizer, vocabulary_size
from pmpjax.models import Kosmos, image_example_losses, image_token_loss, parameter_count
from pmpjax.multimodal.config import KosmosTrainConfig
from pmpjax.multimodal.examples import Layout
from pmpjax.multimodal.reading import Reader, ground
from pmpjax.multimodal.report import Shown, write_report
from pmpjax.multimodal.scene_rows import SceneRows, rows_of, scene_tokenizer
from pmpjax.multimodal.start import start
from pmpjax.multimodal.tasks import (
    Question,
    Sets,
    absent_questions,
    asked_in_all,
    measure,
    phrase_questions,
    referring_questions,
)
from pmpjax.multimodal.tasks import scene_sets as sets_of
from pmpjax.runs import RunError, read_arrays, read_json, stored_config, write_arrays, write_json
from pmpjax.runs.files import plain, sha256
from pmpjax.runs.metrics import Metrics
from pmpjax.runs.pipeline import Pipeline, Stage, View
from pmpjax.runs.progress import Bar
from pmpjax.train.checkpoints import load_params, save_params
from pmpjax.train.loop import Evaluation, Saving, train
from pmpjax.train.optimizers import adamw, rate_schedule
from pmpjax.train.record import Report
from pmpjax.train.step import train_step

_NOT_DECIDING = ("save_every", "keep")
_SHOWN = 4


def run(config: KosmosTrainConfig, out: Path) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    Stages: train (tokenizer.json, params.npz, curves.npz, metrics/; checkpoints while it runs), measure (every task).
    Then metrics.json, report.html, pictures.png, losses.png and recall.png.

    metrics.json: what `pmpjax.multimodal.tasks.measure` returns, `heldout` losses {text, locations} in nats per token,
    `train_loss`, `parameters`, `steps`, `seed`, `stage_seconds`, `damaged_checkpoints`.

    Raises RunError or ValueError for what the caller can put right.
    """
    with PIPELINE.open(config, out) as running:
        folders = running.build_all()
        metrics = {
            **read_json(folders["measure"] / "tasks.json"),
            **read_json(folders["train"] / "train.json"),
            "steps": config.steps,
            "seed": config.seed,
            "stage_seconds": dict(running.run.seconds),
        }
        write_json(running.run.directory / "metrics.json", metrics)
        shown = [Shown(*one) for one in _shown(config, folders["measure"])]
        write_report(running.run.directory, metrics, read_arrays(folders["train"] / "curves"), shown)
    return plain(metrics)


def load_reader(run: Path) -> tuple[Reader, KosmosTrainConfig]:
    """The trained model of a run directory; RunError where there is none, or one that has not finished training."""
    config, folder = stored_config(run, KosmosTrainConfig), run / "train"
    if config is None:
        raise RunError(f"{run} is no run; name the folder of a finished one, or run `pmpjax kosmos train --out {run}`")
    if not (folder / "params.npz").is_file():
        raise RunError(f"the run in {run} has not finished training; the command that began it goes on with it")
    return _reader(config, folder), config


def _deciding(config: KosmosTrainConfig) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(config))
    return {name: getattr(config, name) for name in fields if name not in _NOT_DECIDING}


def _layout(config: KosmosTrainConfig, tokenizer: Any) -> Layout:
    return Layout(tokenizer, config.locations, config.latents)


def _train(at: View) -> None:
    config, folder = at.config, at.folder
    tokenizer = scene_tokenizer(config.locations)
    tokenizer.save(str(folder / "tokenizer.json"))
    layout, kosmos = _layout(config, tokenizer), config.kosmos(vocabulary_size(tokenizer))
    rows = SceneRows(config.steps * config.batch, config.seed, layout, config.length, config.scenes, config.mixture)
    first = rows_of({name: value[None] for name, value in rows[0].items()})
    params = start(kosmos, layout, first, config.seed)
    rates = np.asarray(jax.vmap(rate_schedule(config.optimizer, config.steps))(jnp.arange(config.steps)))
    with (
        at.progress("train", config.steps) as bar,
        Metrics(
            folder / "metrics",
            lambda step, values: {"learning_rate": float(rates[step])} if "loss" in values else {},
        ) as metrics,
    ):
        trained = train(
            train_step(image_example_losses(kosmos), adamw(config.optimizer, config.steps), steps_per_call=4),
            params,
            token_stream(rows, batch=config.batch, seed=config.seed).map(rows_of),
            config.steps,
            saving=Saving(
                folder / "checkpoints",
                config.save_every,
                keep=config.keep,
                identity={"tokenizer": sha256(folder / "tokenizer.json")},
            ),
            evaluation=Evaluation(_heldout(config, layout, kosmos), config.evaluate_every),
            metrics=metrics,
            progress=_show(bar),
        )
    save_params(folder / "params", trained.params)
    write_arrays(folder / "curves", {"losses": trained.losses, "steps": trained.evaluated_at, **trained.evaluated})
    write_json(
        folder / "train.json",
        {
            "heldout": {name: float(values[-1]) for name, values in trained.evaluated.items()},
            "train_loss": float(trained.losses[-20:].mean()),
            "parameters": parameter_count(trained.params),
            "damaged_checkpoints": len(trained.damaged),
        },
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _show(bar: Bar) -> Callable[[Report], None]:
    return lambda report: bar.update(report.steps, loss=report.loss)


def _heldout(config: KosmosTrainConfig, layout: Layout, kosmos: Kosmos) -> Callable[[Any], dict[str, Any]]:
    """params -> nats per token of the answers' text and of their locations, on rows of another seed."""
    source = SceneRows(config.heldout, config.seed + 500_009, layout, config.length, config.scenes, config.mixture)
    kept = [source[index] for index in range(config.heldout)]
    rows = rows_of({name: jnp.stack([one[name] for one in kept]) for name in kept[0]})
    where = rows.predicted & (rows.tokens >= layout.id("<patch_index_0000>"))
    parts = {"locations": rows._replace(predicted=where), "text": rows._replace(predicted=rows.predicted & ~where)}
    loss = image_token_loss(kosmos)

    def evaluate(params: Any) -> dict[str, Any]:
        sums = {name: loss(params, part) for name, part in parts.items()}
        return {name: total / count for name, (total, count) in sums.items()}

    return evaluate


def _reader(config: KosmosTrainConfig, folder: Path) -> Reader:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.encode_special_tokens = False
    kosmos = config.kosmos(vocabulary_size(tokenizer))
    return Reader(kosmos, load_params(folder / "params"), _layout(config, tokenizer))


def _sets(config: KosmosTrainConfig) -> Sets:
    return sets_of(config.test_scenes, config.seed, config.scenes)


def _questions(config: KosmosTrainConfig) -> list[Question]:
    """A few of each kind, for the pictures."""
    sets = _sets(config)
    kinds = (phrase_questions(sets.known), referring_questions(sets.known))
    kinds += (phrase_questions(sets.held_out, first=True), absent_questions(sets.known, config.seed))
    return [one for questions in kinds for one in questions[:_SHOWN]]


def _measure(at: View) -> None:
    config, sets = at.config, _sets(at.config)
    reader, shown = _reader(config, at.folders["train"]), _questions(config)
    with at.progress("measure", asked_in_all(sets) + len(shown)) as bar:
        write_json(at.folder / "tasks.json", measure(reader, sets, config.seed, bar.update))
        found = ground(reader, [one.image for one in shown], [one.phrase for one in shown], bar.update)
    write_json(at.folder / "shown.json", [boxes.tolist() for boxes in found])


def _shown(config: KosmosTrainConfig, folder: Path) -> list[tuple[Question, np.ndarray]]:
    found = read_json(folder / "shown.json")
    return [
        (one, np.asarray(boxes, float).reshape(-1, 4)) for one, boxes in zip(_questions(config), found, strict=True)
    ]


PIPELINE = Pipeline(
    "kosmos train",
    {
        "train": Stage((), _deciding, _train),
        "measure": Stage(("train",), lambda config: config.test_scenes, _measure),
    },
    deciding=_deciding,
)
