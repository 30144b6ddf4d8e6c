"""`pmpjax context build|predict|show`: a labelled task's demonstrations as a context, and its answers."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pmpjax.contexts.prompt import Format, plain_text
from pmpjax.contexts.structured_prompting import report
from pmpjax.contexts.structured_prompting.context import Context, ContextAttention, attach, build_context
from pmpjax.contexts.structured_prompting.groups import build_groups
from pmpjax.contexts.structured_prompting.stored import context_notes, load_context, save_context
from pmpjax.contexts.structured_prompting.weights import fit_group_weights
from pmpjax.data.documents import digest
from pmpjax.evaluation.tasks import Examples, Task, draw, examples_of, load_task
from pmpjax.evaluation.tasks.task import take
from pmpjax.models import Decoder, load_decoder, pretrained_tokenizer
from pmpjax.runs.directory import fingerprint, open_run
from pmpjax.runs.files import read_json, write_json, write_text
from pmpjax.runs.progress import progress
from pmpjax.scoring.options import Item, OptionScoring, option_ids, option_log_probabilities

FILE = "context.safetensors"
"""What `build` writes into the folder `context` of its run directory."""


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """Which demonstrations become a context of which model.

    Attributes:
        model: name of an installed model, a GGUF file, or a Hugging Face folder.
        task: name of a task, with some of its classes as in wordnet:food,person, or a table (.csv, .jsonl).
        per_class: demonstrations of each class.
        size: demonstrations in a group; as many as fit if absent.
        window: tokens that a group, with instruction and query, has at most.
        room: of these, tokens kept free for the query and its answer.
        instruction: text before every group and query, encoded once.
        question: stands between a text and its label.
        text: column of a table with the texts.
        label: column of a table with the labels.
        seed: of the task's splits and of the demonstrations drawn.
        batch: groups encoded at once.
    """

    model: str = "smollm2"
    task: str = "wordnet:food,person"
    per_class: int = 16
    size: int | None = None
    window: int = 512
    room: int = 128
    instruction: str = ""
    question: str = "Label:"
    text: str = "text"
    label: str = "label"
    seed: int = 0
    batch: int = 4


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Which texts are answered behind which context, and how it is attended to.

    Attributes:
        context: a file that `pmpjax context build` wrote.
        texts: to be classified; without any, those of the split.
        split: of the task that the demonstrations are from.
        limit: texts of the split at most.
        attention: of the query to the context.
        learn_weights: labelled dev items on which log-weights of the groups are learned; 0: none are.
        sweeps: costate sweeps of that.
        each_group: labelled texts that are also answered behind each group alone, for the spread over groups; 0: none.
        batch: texts scored at once.
    """

    context: Path
    texts: tuple[str, ...] = ()
    split: str = "test"
    limit: int = 100
    attention: ContextAttention = dataclasses.field(default_factory=ContextAttention)
    learn_weights: int = 0
    sweeps: int = 12
    each_group: int = 16
    batch: int = 8


def demonstration(text: str, question: str, label: str) -> str:
    """A labelled example as the model reads it."""
    return f"{query(text, question)} {label}\n\n"


def query(text: str, question: str) -> str:
    """A text that waits for its label."""
    return f"{text}\n{question}"


def text_format(tokenizer: Tokenizer, window: int, instruction: str = "") -> Format:
    """Texts encoded without special tokens, behind the instruction with those that the model expects first."""
    return Format(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids, window, tokenizer.encode(instruction).ids
    )


def items_of(tokenizer: Tokenizer, texts: Sequence[str], question: str, classes: Sequence[str]) -> list[Item]:
    """Texts as questions whose options are the classes."""
    options = option_ids(tokenizer, [f" {name}" for name in classes])
    encoded = tokenizer.encode_batch([query(text, question) for text in texts], add_special_tokens=False)
    return [Item(row.ids, options) for row in encoded]


def build(config: BuildConfig, out: Path) -> dict[str, Any]:
    """Encodes the demonstrations; `out`/context/context.safetensors and metrics.json. Resumed where it is complete.

    Raises ValueError where the task, the groups or the model are not what they should be.
    """
    table = Path(config.task)
    inputs = {"task": table} if table.is_file() else {}
    with open_run(out, "context build", config) as run:

        def make(folder: Path) -> None:
            task = load_task(config.task, seed=config.seed, text=config.text, label=config.label)
            settings, params = load_decoder(config.model, scan_layers=True)
            tokenizer = pretrained_tokenizer(config.model)
            drawn = draw(task, config.per_class, config.seed)
            texts = [
                demonstration(text, config.question, task.classes[label])
                for text, label in zip(drawn.texts, drawn.labels, strict=True)
            ]
            form = text_format(tokenizer, config.window, config.instruction)
            groups = build_groups(form, texts, size=config.size, room=config.room)
            with progress("encode groups", len(groups.lengths)) as bar:
                context = build_context(
                    Decoder(settings), params, groups, batch=config.batch, encoded=_moves(bar.update)
                )
            metrics = {
                "groups": context.groups,
                "demonstrations": sum(map(len, groups.members)),
                "in the last group": len(groups.members[-1]),
                "too long": list(groups.too_long),
                "tokens": int(groups.lengths.sum()),
                "longest group": int(groups.lengths.max()),
                "prefix tokens": len(groups.prefix),
            }
            shown = sorted(plain_text(drawn.texts[number]) for members in groups.members for number in members)
            notes = {
                "build": dataclasses.asdict(config) | ({"task": str(table.resolve())} if inputs else {}),
                "table": fingerprint(table) if inputs else None,
                "classes": list(task.classes),
                "shown": [digest(text) for text in shown],
                "metrics": metrics,
            }
            save_context(folder / FILE, context, settings, params, notes)
            write_json(folder / "metrics.json", metrics)

        folder = run.stage("context", make, config=config, inputs=inputs)
        return {**read_json(folder / "metrics.json"), "file": str(folder / FILE)}


def predict(config: PredictConfig, out: Path) -> dict[str, Any]:
    """Classifies; `out`/predict/predictions.jsonl (text, label, log-probabilities), metrics.json and report.html.

    Labelled texts that are demonstrations, or that weights are learned on, are left out and counted.

    Raises FileNotFoundError and ValueError as `load_context`; ValueError for no texts, for a context that the command
    did not build, and for a table that has changed since.
    """
    notes = context_notes(config.context)["notes"]
    if "build" not in notes or "shown" not in notes:
        raise ValueError(f"{config.context} does not say what it is of; build it with `pmpjax context build`")
    built, classes = notes["build"], notes["classes"]
    with open_run(out, "context predict", config) as run:

        def make(folder: Path) -> None:
            settings, params = load_decoder(built["model"], scan_layers=True)
            decoder, tokenizer = Decoder(settings), pretrained_tokenizer(built["model"])
            context = load_context(config.context, settings, params)
            task = None if config.texts and not config.learn_weights else _task_of(notes)
            found, metrics = _asked(task, config, set(notes["shown"]))
            items = items_of(tokenizer, found.texts, built["question"], classes)
            metrics |= {"groups": context.groups, "texts": len(items)}
            weights = None
            if task is not None and config.learn_weights:
                dev = examples_of(task, "dev")
                known = items_of(tokenizer, dev.texts[: config.learn_weights], built["question"], classes)
                with progress("learn weights", config.sweeps) as bar:
                    solution = fit_group_weights(
                        decoder,
                        params,
                        context,
                        known,
                        dev.labels[: len(known)].tolist(),
                        config.attention,
                        sweeps=config.sweeps,
                        callback=lambda now: bar.update(1, loss=now.value),
                    )
                weights = solution.controls
                metrics |= {"log weights": np.asarray(weights).tolist(), "loss of labelled items": solution.value}

            def answered(name: str, asked: Sequence[Item], behind: Sequence[tuple[Context, Any]]) -> list[np.ndarray]:
                with progress(name, len(asked) * len(behind)) as bar:
                    return [
                        option_log_probabilities(
                            decoder,
                            params,
                            asked,
                            OptionScoring(config.batch),
                            attached=attach(decoder, one, given, config.attention),
                            scored=_moves(bar.update),
                        )
                        for one, given in behind
                    ]

            (scores,) = answered("predict", items, [(context, weights)])
            chosen = scores.argmax(axis=1)
            lines = [
                {
                    "text": text,
                    "label": classes[best],
                    "log_probabilities": dict(zip(classes, row.tolist(), strict=True)),
                }
                for text, best, row in zip(found.texts, chosen, scores, strict=True)
            ]
            write_text(folder / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            metrics["predicted"] = dict(zip(classes, np.bincount(chosen, minlength=len(classes)).tolist(), strict=True))
            if not config.texts:
                metrics["accuracy"] = float(np.mean(chosen == found.labels))
                metrics["confusion"] = report.confusion(found.labels, chosen, len(classes)).tolist()
                some = min(config.each_group, len(items))
                if some and context.groups > 1:
                    right = found.labels[:some]
                    each = answered("each group alone", items[:some], [(one, None) for one in context.alone()])
                    metrics["each group alone"] = {
                        "texts": some,
                        "accuracies": [float(np.mean(one.argmax(axis=1) == right)) for one in each],
                        "together": float(np.mean(chosen[:some] == right)),
                    }
            write_json(folder / "metrics.json", metrics)
            report.write_report(folder / "report.html", metrics, classes, built)

        folder = run.stage("predict", make, config=config, inputs={"context": config.context})
        files = {"file": str(folder / "predictions.jsonl"), "page": str(folder / "report.html")}
        return {**read_json(folder / "metrics.json"), **files}


def show(path: Path) -> dict[str, str]:
    """What a context's file holds, as lines of a table; its model is not needed."""
    told = context_notes(path)
    shapes, model, notes = told["shapes"], told["model"], told["notes"]
    layers, groups, longest, heads, size = shapes["keys"]
    places = model["positions"]
    rows = {
        "groups": f"{groups:,}, of at most {longest:,} tokens",
        "prefix": f"{shapes['prefix_keys'][1]:,} tokens",
        "decoder": f"{layers} layers, width {model['width']}, {heads} key heads of {size}, {places} positions",
        "parameters": told["parameters"][:16],
        "file size": f"{path.stat().st_size / 1e6:,.1f} MB",
    }
    rows |= {name: str(value) for name, value in notes.get("build", {}).items() if value not in (None, "")}
    if "classes" in notes:
        rows["classes"] = ", ".join(notes["classes"])
    return rows | {name: str(value) for name, value in notes.get("metrics", {}).items() if name not in rows}


def _moves(update: Callable[..., None]) -> Callable[[int], None]:
    """A bar's steps from the number of what is done."""
    told = 0

    def scored(done: int) -> None:
        nonlocal told
        update(done - told)
        told = done

    return scored


def _task_of(notes: dict[str, Any]) -> Task:
    """The task that the demonstrations were drawn from."""
    built, table = notes["build"], Path(notes["build"]["task"])
    if notes["table"] is not None and (not table.is_file() or fingerprint(table) != notes["table"]):
        raise ValueError(f"{table} has changed since the context was built, or is gone; build the context again")
    return load_task(built["task"], seed=built["seed"], text=built["text"], label=built["label"])


def _asked(task: Task | None, config: PredictConfig, shown: set[str]) -> tuple[Examples, dict[str, Any]]:
    """What is classified, and how many texts are demonstrations (of a split: were left out)."""
    if config.texts or task is None:
        copies = sum(digest(plain_text(text)) in shown for text in config.texts)
        found = Examples(list(config.texts), np.full(len(config.texts), -1), None, np.arange(len(config.texts)))
        return found, {"copies of demonstrations": copies}
    index = examples_of(task, config.split).index
    learned = examples_of(task, "dev").index[: config.learn_weights]
    used = np.array([digest(plain_text(task.texts[n])) in shown or n in learned for n in index], bool)
    if used.all():
        raise ValueError(f"split {config.split!r} of {task.name} has no texts left; give another split, or texts")
    return take(task, index[~used][: config.limit]), {"left out, shown or learned on": int(used.sum())}
