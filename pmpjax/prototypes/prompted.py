"""Label scores of texts under a prompt: what `pmpjax calibrate` corrects, made from a prompt file and a real model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer

from pmpjax.data.sources.tables import TABLES
from pmpjax.evaluation.tasks import Examples, Task, draw, examples_of, load_task
from pmpjax.evaluation.tasks.task import take
from pmpjax.models import Decoder, load_decoder, pretrained_tokenizer
from pmpjax.runs.errors import nearest
from pmpjax.runs.files import read_json
from pmpjax.runs.progress import Bar
from pmpjax.scoring.options import Item, option_ids, option_log_probabilities

CONTENT_FREE = ("", "N/A", "[MASK]")
"""Texts that say nothing, whose mean score is what contextual calibration corrects by (arXiv 2102.09690)."""


class Model(NamedTuple):
    """A decoder, its parameters and its tokenizer."""

    decoder: Decoder
    params: Any
    tokenizer: Tokenizer


class Template(NamedTuple):
    """How a text becomes a question, and the word that answers it for each class.

    Fields:
        text: holds {text} once; the answer follows its end.
        options: class -> word, with the space that stands before it: {"food": " food", "person": " person"}.
        separator: what ends a demonstration.
        begin: stands before all: an instruction.
    """

    text: str
    options: Mapping[str, str]
    separator: str = "\n\n"
    begin: str = ""


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """A .json file that says how a model classifies; `pmpjax calibrate FILE` reads it.

    Attributes:
        model: what `load_pretrained` reads: "smollm2", a .gguf file, a Hugging Face folder.
        data: a task's name ("wordnet:food,person") or a table of the user's own, relative to the prompt file.
        template: holds {text} once; the answer follows its end.
        options: class -> word, with the space that stands before it.
        begin: stands before the demonstrations: an instruction.
        separator: what ends a demonstration.
        demonstrations: of each class, drawn from the training split.
        fit: texts of the training split that calibration is fitted to, at most.
        test: texts that the figures are of, at most.
        seed: of the splits and the draws.
        text: column of a table with the texts.
        label: column of a table with the labels.
    """

    model: str
    data: str
    template: str
    options: Mapping[str, str]
    begin: str = ""
    separator: str = "\n\n"
    demonstrations: int = 0
    fit: int = 200
    test: int = 200
    seed: int = 0
    text: str = "text"
    label: str = "label"


def read_prompt_file(path: Path) -> PromptFile:
    """Reads and checks a prompt file.

    Raises:
        RunError: there is no such file, or it is no JSON.
        ValueError: a key that is missing, unknown or of another type, or a template without {text}.

    >>> import json, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "prompt.json"
    >>> options = {"food": " food", "person": " person"}
    >>> fields = {"model": "smollm2", "data": "wordnet:food,person", "template": "{text} It is a", "options": options}
    >>> _ = path.write_text(json.dumps(fields))
    >>> read_prompt_file(path).fit
    200
    """
    held = read_json(path)
    if not isinstance(held, dict):
        raise ValueError(
            f"{path} holds a {type(held).__name__}, expected an object with model, data, template, options"
        )
    known = {field.name: field for field in dataclasses.fields(PromptFile)}
    for name in held:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}? " if near else ""
            raise ValueError(f"{path}: no key {name!r}; {hint}the keys are {', '.join(known)}")
    missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in held]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; the keys are {', '.join(known)}")
    for name, value in held.items():
        kind = dict if name == "options" else type(known[name].default) if name not in _NEEDED else str
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{path}: {name} is {value!r}, expected {'an object' if kind is dict else kind.__name__}")
        if kind is int and value < (name in ("fit", "test")):
            raise ValueError(f"{path}: {name} is {value}, expected at least {int(name in ('fit', 'test'))}")
    wrong = [name for name, word in held["options"].items() if not isinstance(word, str)]
    if wrong or len(held["options"]) < 2:
        raise ValueError(f"{path}: options is {held['options']!r}, expected at least two classes, each with its word")
    if held["template"].count("{text}") != 1:
        raise ValueError(f"{path}: the template {held['template']!r} does not hold {{text}} exactly once")
    return PromptFile(**held)


_NEEDED = ("model", "data", "template", "options")


def load_model(source: str | Path) -> Model:
    """A pretrained decoder, its layers scanned, with its tokenizer."""
    config, params = load_decoder(source, scan_layers=True)
    return Model(Decoder(config), params, pretrained_tokenizer(source))


def label_scores(
    model: Model,
    template: Template,
    texts: Sequence[str],
    demonstrations: Sequence[tuple[str, str]] = (),
    scored: Callable[[int], None] = lambda texts: None,
) -> Float[np.ndarray, "n c"]:
    """s[n, c] = log p(word of class c | begin, demonstrations, text n), in nats per token, in the order of `options`.

    Args:
        demonstrations: pairs (text, class); encoded once for all texts.

    Raises ValueError: a word without tokens, two classes of one word, a demonstration of an unknown class.
    """

    def ids(text: str) -> list[int]:
        return model.tokenizer.encode(text, add_special_tokens=False).ids

    words = option_ids(model.tokenizer, list(template.options.values()))
    unknown = sorted({label for _, label in demonstrations} - set(template.options))
    if unknown:
        raise ValueError(
            f"a demonstration is of the class {unknown[0]!r}; the options are {', '.join(template.options)}"
        )
    before = template.begin + "".join(
        question(template, text) + template.options[label] + template.separator for text, label in demonstrations
    )
    # With the token that begins a text, where the model has one.
    prefix = model.tokenizer.encode(before).ids
    items = [Item(ids(question(template, text)), words) for text in texts]
    return option_log_probabilities(model.decoder, model.params, items, prefix=prefix, scored=scored)


def question(template: Template, text: str) -> str:
    """The text in the template; braces of the text are its own."""
    return template.text.replace("{text}", text)


def scores_of(path: Path, progress: Callable[..., AbstractContextManager[Bar]]) -> dict[str, np.ndarray]:
    """The arrays that `pmpjax calibrate` works on, by a prompt file's model and data.

    Args:
        progress: `pmpjax.runs.progress.progress`, over the texts.

    Returns:
        logp [N, C], labels [N], content_free [3, C], fit [N] (the texts of the training split), classes [C] (the order
        of the columns, which labels index).

    Raises ValueError: the options are not the classes of the data; a training split too small for the demonstrations.
    """
    config = read_prompt_file(path)
    table = config.data.lower().endswith(TABLES)
    data = str(path.parent / config.data) if table else config.data
    task = load_task(data, seed=config.seed, text=config.text, label=config.label)
    if set(task.classes) != set(config.options):
        raise ValueError(
            f"{path}: the options are {', '.join(config.options)}, and the classes of {config.data} are "
            f"{', '.join(task.classes)}; give each class its word"
        )
    template = Template(
        config.template, {name: config.options[name] for name in task.classes}, config.separator, config.begin
    )
    shown = draw(task, config.demonstrations, config.seed).index if config.demonstrations else np.zeros(0, np.int32)
    fitted = _unseen(task, shown, config.fit)
    tested = take(task, examples_of(task, "test").index[: config.test])
    texts = [*fitted.texts, *tested.texts]
    if not fitted.texts or not tested.texts:
        raise ValueError(
            f"{path}: {len(fitted.texts)} texts are left to fit and {len(tested.texts)} to test; give more data or "
            "fewer demonstrations"
        )
    model, asked = load_model(config.model), [*CONTENT_FREE, *texts]
    pairs = [(task.texts[n], task.classes[task.labels[n]]) for n in shown]
    finished = 0
    with progress("score", total=len(asked)) as bar:

        def scored(done: int) -> None:
            nonlocal finished
            bar.update(done - finished)
            finished = done

        logp = label_scores(model, template, asked, pairs, scored)
    return {
        "logp": logp[len(CONTENT_FREE) :],
        "labels": np.concatenate([fitted.labels, tested.labels]),
        "content_free": logp[: len(CONTENT_FREE)],
        "fit": np.arange(len(texts)) < len(fitted.texts),
        "classes": np.asarray(task.classes),
    }


def _unseen(task: Task, shown: np.ndarray, count: int) -> Examples:
    """Training texts that are no demonstrations, in the task's order, which mixes the classes."""
    index = task.splits["train"]
    return take(task, index[~np.isin(index, shown)][:count])
