"""`pmpjax icl compare`: stages for each seed, resumable, from a model and a task to metrics.json and a page."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pmpjax.contexts.meta_optimization import report
from pmpjax.contexts.meta_optimization.comparison import (
    Bench,
    Questions,
    Rates,
    best_rate,
    compare,
    compare_orders,
    rate_validations,
    validate,
)
from pmpjax.contexts.meta_optimization.reading import Layout, in_context
from pmpjax.contexts.meta_optimization.record import Model, scanned
from pmpjax.contexts.prompt import Format
from pmpjax.evaluation.tasks import Task, draw, load_task, summary
from pmpjax.models import Decoder, initialise, load_decoder, pretrained_tokenizer
from pmpjax.runs import Run, open_run, read_arrays, read_json, write_arrays, write_json
from pmpjax.runs.progress import Bar, progress
from pmpjax.runs.seeds import stage_generator, stage_key
from pmpjax.scoring.options import option_ids

_COMMAND = "icl compare"


@dataclass(frozen=True)
class IclConfig:
    """Everything that decides the result.

    Attributes:
        model: "smollm2", a .gguf file or a Hugging Face folder.
        task: "wordnet", "debian-sections", "NAME:CLASS,CLASS" for some classes of one, or a table (.csv, .jsonl, ...).
        text: column of a table with the texts.
        label: column of a table with the labels.
        per_class: demonstrations of each class.
        items: test items that are reported, as many of each class as that allows.
        validation: items of the split "dev" that choose demonstrations and rates; none of them is reported.
        draws: sets of demonstrations from which each seed takes the one that is best in a context.
        rates: learning rates from which each fine-tuned arm takes its own.
        orders: of the demonstrations, to see how much it matters.
        seeds: each draws demonstrations, items and orders anew.
        instruction: begins every prompt, also those without demonstrations and the rows to train on.
        template: of a query; {text} is the item.
        separator: stands behind each demonstration of a context.
        window: tokens that the model reads at most.
        batch: prompts read at once.
    """

    model: str = "smollm2"
    task: str = "wordnet:food,person"
    text: str = "text"
    label: str = "label"
    per_class: int = 4
    items: int = 40
    validation: int = 40
    draws: int = 3
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    orders: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    instruction: str = "Each text with its label.\n\n"
    template: str = "Text: {text}\nLabel:"
    separator: str = "\n\n"
    window: int = 2048
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, expected one or more different numbers")
        least = {"per_class": 1, "items": 1, "validation": 1, "draws": 1, "orders": 2, "window": 1, "batch": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) != len(self.rates):
            raise ValueError(f"rates are {self.rates}, expected one or more different numbers above 0")
        if self.template.count("{text}") != 1:
            raise ValueError(f"the template {self.template!r} does not hold {{text}}, the item's text, exactly once")


class Material(NamedTuple):
    """A model and a task, ready to compare."""

    task: Task
    model: Model
    layout: Layout


def load(config: IclConfig) -> Material:
    """Reads the task and the model; the answer to a query is a space and the class's name."""
    task = load_task(config.task, text=config.text, label=config.label)
    tokenizer = pretrained_tokenizer(config.model)
    architecture, params = load_decoder(config.model, scan_layers=True)
    window = min(config.window, architecture.max_length or config.window)
    prefix = tokenizer.encode(config.instruction).ids
    form = Format(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, window, prefix)
    options = option_ids(tokenizer, [f" {name}" for name in task.classes])
    return Material(task, scanned(Decoder(architecture), params), Layout(form, config.separator, options))


def run(
    config: IclConfig, directory: Path | str, read: Callable[[IclConfig], Material] | None = None
) -> dict[str, Any]:
    """Runs (or goes on with) the comparison in `directory`; returns what metrics.json holds.

    Stages of each seed: `choice-K` (demonstrations and rates, on validation items), `trained-K`, `untrained-K`
    (weights drawn at random, with rates of their own), `shuffled-K` (labels permuted among the demonstrations) and
    `orders-K`. Then metrics.json, by_layer.png and report.html.

    Args:
        read: gives model, task and layout in place of `load`.

    Raises:
        pmpjax.runs.RunError: the directory holds something else, or was begun with other options.
        ValueError, SourceError, FileNotFoundError: what the task, the model or the prompts refuse.
    """
    made: list[Material] = []

    def get() -> Material:  # read when a stage has work to do, not when all are complete
        if not made:
            made.append((read or load)(config))
        return made[0]

    with open_run(directory, _COMMAND, config) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what prompts warn of is in metrics.json and on the page
        inputs = {"task": config.task} if Path(config.task).is_file() else {}
        found = [_Seed(config, seed, opened, get, inputs).build() for seed in config.seeds]
        metrics = report.metrics(config.seeds, found)
        metrics |= {"model": config.model, "task": found[0]["choice"]["task"], "seconds": sum(opened.seconds.values())}
        write_json(opened.directory / "metrics.json", metrics)
        report.write(opened.directory, metrics)
    return metrics


class _Seed(NamedTuple):
    """The stages of one seed."""

    config: IclConfig
    seed: int
    run: Run
    material: Callable[[], Material]
    inputs: Mapping[str, str]

    def build(self) -> dict[str, Any]:
        choice = self._stage("choice", self._choose, self.config.draws + 2 * len(self.config.rates), self.inputs)
        before = {"choice": choice}
        totals = {"trained": 6, "untrained": 6, "shuffled": 6, "orders": 1 + 2 * self.config.orders}
        found: dict[str, Any] = {"choice": read_json(choice / "choice.json")}
        for name, total in totals.items():
            folder = self._stage(name, functools.partial(self._world, name, choice), total, before)
            found[name] = {"arrays": read_arrays(folder / "arrays"), **read_json(folder / "found.json")}
        return found

    def _stage(
        self, name: str, build: Callable[[Path, Bar], None], total: int, inputs: Mapping[str, Path | str]
    ) -> Path:
        def within(folder: Path) -> None:
            with progress(f"{name}, seed {self.seed}", total) as bar:
                build(folder, bar)

        return self.run.stage(f"{name}-{self.seed}", within, inputs=inputs)

    def _bench(self, bar: Bar, rows: int) -> Bench:
        return Bench(self.material().layout, self.config.batch, lambda read: bar.update(read / rows))

    def _choose(self, folder: Path, bar: Bar) -> None:
        config, material = self.config, self.material()
        questions, _ = self._questions("dev", config.validation)
        bench = self._bench(bar, len(questions.labels))
        tried = {}
        for number in range(config.draws):
            texts, _ = self._demonstrations(number)
            reading = in_context(bench.layout, texts, questions.queries)
            tried[number] = validate(bench, material.model, reading, questions.labels)
            bar.update(1, accuracy=tried[number].accuracy)
        chosen = min(tried, key=lambda number: (-tried[number].accuracy, tried[number].loss, number))
        rates = self._rates(bench, material.model, chosen, questions)
        write_json(
            folder / "choice.json",
            {"draw": chosen, "draws": tried, **rates, "task": summary(material.task)},
        )

    def _rates(self, bench: Bench, model: Model, drawn: int, questions: Questions) -> dict[str, Any]:
        texts, _ = self._demonstrations(drawn)
        tried = rate_validations(bench, model, texts, questions, self.config.rates)
        ends = (min(self.config.rates), max(self.config.rates))
        chosen = {name: best_rate(found) for name, found in tried.items()}
        return {
            "rates": chosen,
            "rate_at_the_end": [name for name, rate in chosen.items() if rate in ends],
            "diverged": {
                name: [rate for rate in found if not np.isfinite(found[rate].loss)] for name, found in tried.items()
            },
            "tried": {name: {f"{rate:g}": one for rate, one in found.items()} for name, found in tried.items()},
        }

    def _world(self, name: str, choice: Path, folder: Path, bar: Bar) -> None:
        config, material = self.config, self.material()
        chosen = read_json(choice / "choice.json")
        questions, index = self._questions("test", config.items)
        bench, model = self._bench(bar, len(questions.labels)), material.model
        texts, moved = self._demonstrations(chosen["draw"], shuffled=name == "shuffled")
        notes: dict[str, Any] = {"items": index, "labels_moved": moved}
        if name == "orders":
            orders = compare_orders(bench, model, self._orders(texts), questions, chosen["rates"]["fine_tuned"])
            write_arrays(folder / "arrays", orders.by_layer)
            write_json(folder / "found.json", {"accuracy": orders.accuracy, "changed": orders.changed, **notes})
            return
        if name == "untrained":
            key = stage_key(self.seed, "icl", "untrained")
            model = Model(model.decoder, initialise(model.decoder, key, jnp.zeros((1, 4), jnp.int32)))
            validation, _ = self._questions("dev", config.validation)
            chosen = self._rates(bench._replace(told=lambda _: None), model, chosen["draw"], validation)
            notes |= chosen
        rates = Rates(**chosen["rates"])
        found = compare(bench, model, texts, questions, rates, stage_generator(self.seed, "icl", name))
        shown = in_context(bench.layout, texts, questions.queries)
        notes |= {"too_long": shown.too_long, "duplicates": shown.duplicates, "demonstrations": len(texts)}
        notes |= {"demonstration_tokens": int(shown.begin), "correct": found.correct}
        write_arrays(folder / "arrays", found.by_layer)
        write_json(folder / "found.json", notes)

    def _questions(self, split: str, count: int) -> tuple[Questions, list[int]]:
        """`count` items of a split, mixed over the classes, and their indices in the task."""
        task = self.material().task
        held = np.bincount(task.labels[task.splits[split]], minlength=len(task.classes))
        if not held.min():
            name = task.classes[int(held.argmin())]
            raise ValueError(f"class {name!r} of task {task.name!r} has no text in the split {split!r}; add some to it")
        drawn = draw(task, min(max(count // len(task.classes), 1), int(held.min())), self.seed, split=split)
        queries = [self.config.template.replace("{text}", text) for text in drawn.texts]
        return Questions(queries, drawn.labels), drawn.index.tolist()

    def _demonstrations(self, number: int, shuffled: bool = False) -> tuple[list[str], int]:
        """The texts of a draw, with how many labels were moved to a text of another class."""
        task = self.material().task
        # Draws of one seed must not be nested in those of the next: another number, another order of all texts.
        drawn = draw(task, self.config.per_class, 1_000 * self.seed + number)
        labels = drawn.labels
        if shuffled:
            labels = shuffled_labels(labels, stage_generator(self.seed, "icl", "labels"))
        template = self.config.template
        texts = [
            f"{template.replace('{text}', text)} {task.classes[label]}"
            for text, label in zip(drawn.texts, labels, strict=True)
        ]
        return texts, int((labels != drawn.labels).sum())

    def _orders(self, texts: Sequence[str]) -> list[Sequence[str]]:
        generator = stage_generator(self.seed, "icl", "orders")
        others = [generator.permutation(len(texts)) for _ in range(self.config.orders - 1)]
        return [[texts[i] for i in order] for order in (range(len(texts)), *others)]


def shuffled_labels(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same labels in another order, in which at least one text has another class's.

    >>> sorted(shuffled_labels(np.array([0, 0, 1, 1]), np.random.default_rng(0)).tolist())
    [0, 0, 1, 1]
    """
    if len(set(labels.tolist())) < 2:
        raise ValueError(
            "all demonstrations have one label, so that shuffling changes nothing; give two classes or more"
        )
    while True:
        found = generator.permutation(labels)
        if (found != labels).any():
            return found
