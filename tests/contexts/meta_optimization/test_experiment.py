"""The command on a tiny random decoder: resumed after a stop, controls in place, bad input."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from pmpjax.contexts.meta_optimization.experiment import IclConfig, Material, load, run, shuffled_labels
from pmpjax.contexts.meta_optimization.reading import Layout
from pmpjax.contexts.prompt import Format
from pmpjax.evaluation.tasks import Sizes, make_task
from pmpjax.runs import RunError, interrupt, read_json
from tests.contexts.meta_optimization.small import model
from tests.pretrained import needs_models

CONFIG = IclConfig(
    model="random",
    task="toy",
    per_class=2,
    items=4,
    validation=3,
    draws=2,
    rates=(0.05, 0.2),
    orders=2,
    seeds=(0, 1),
    instruction="",
    template="{text}",
    separator="z",
)


def toy(config):
    generator = np.random.default_rng(0)
    words = sorted({"".join(generator.choice(list("abcdefghijklmnopqrst"), 4)) for _ in range(120)})
    sizes = Sizes(dev=0.2, test=0.3)
    task = make_task("toy", [(word, "ab"[i % 2]) for i, word in enumerate(words)], seed=0, sizes=sizes)
    form = Format(lambda text: [ord(letter) % 26 for letter in text], config.window, (28, 29))
    return Material(task, model("llama"), Layout(form, config.separator, [[1], [2, 3]]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("icl") / "run"
    return out, run(CONFIG, out, toy)


@pytest.mark.slow
def test_a_run_leaves_tables_picture_and_page(whole):
    out, metrics = whole
    assert {path.name for path in out.iterdir()} >= {"metrics.json", "report.html", "by_layer.png", "by_layer.pdf"}
    stored = json.loads((out / "metrics.json").read_text())
    assert stored["overall"]["SimAOU"]["mean"] == pytest.approx(metrics["overall"]["SimAOU"]["mean"])
    assert len(stored["by_layer"]["SimAM"]) == 2 and stored["by_layer"]["SimAM"][0]["interval"] is not None
    assert stored["items"] == [4, 4] and stored["demonstrations"] == 4 and min(stored["labels_moved"]) > 0
    page = (out / "report.html").read_text()
    assert "SimAOU, position-matched" in page and "layer-causal" in page and "untrained" in page


@pytest.mark.slow
def test_what_is_reported_was_never_chosen_by(whole):
    task = toy(CONFIG).task
    for seed in (0, 1):
        found = read_json(whole[0] / f"trained-{seed}" / "found.json")
        assert set(found["items"]) <= set(task.splits["test"].tolist())
        choice = read_json(whole[0] / f"choice-{seed}" / "choice.json")
        assert set(choice["rates"]) == {"fine_tuned", "layer_causal"} and choice["draw"] in (0, 1)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_numbers(whole, tmp_path):
    out, metrics = whole
    built = []

    def stopping(config):
        built.append(1)
        interrupt._requested.append(2)
        return toy(config)

    try:
        with pytest.raises(KeyboardInterrupt):
            run(CONFIG, tmp_path / "run", stopping)
    finally:
        interrupt._requested.clear()
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "choice-0.partial").exists()
    again = run(CONFIG, tmp_path / "run", toy)
    assert again["overall"] == metrics["overall"] and again["rec2ftp"].keys() == metrics["rec2ftp"].keys()

    def never(config):
        raise AssertionError("a whole run reads no model")

    assert run(CONFIG, out, never)["overall"] == metrics["overall"]
    with pytest.raises(RunError, match="items: 4 before, 5 now"):
        run(dataclasses.replace(CONFIG, items=5), out, toy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": ()}, "expected one or more different numbers"),
        ({"per_class": 0}, "per_class is 0, expected at least 1"),
        ({"orders": 1}, "orders is 1, expected at least 2"),
        ({"rates": (0.0,)}, "different numbers above 0"),
        ({"template": "text"}, r"does not hold \{text\}"),
    ],
)
def test_options_that_mean_nothing_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **change)


def test_prompts_that_the_window_cannot_hold_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="none is left: shorten them or raise the window"):
        run(dataclasses.replace(CONFIG, window=12), tmp_path / "run", toy)


def test_few_items_are_all_taken_and_none_is_an_error(tmp_path):
    def read(config, dev):
        material = toy(config)
        splits = material.task.splits | {"dev": material.task.splits["dev"][:dev]}
        return material._replace(task=material.task._replace(splits=splits))

    with pytest.raises(ValueError, match="has no text in the split 'dev'"):
        run(CONFIG, tmp_path / "run", lambda config: read(config, 0))


def test_shuffled_labels_are_the_same_ones_elsewhere():
    labels = np.array([0, 1, 1, 0, 2])
    for seed in range(5):
        found = shuffled_labels(labels, np.random.default_rng(seed))
        assert sorted(found.tolist()) == sorted(labels.tolist()) and (found != labels).any()
    with pytest.raises(ValueError, match="all demonstrations have one label"):
        shuffled_labels(np.zeros(3, int), np.random.default_rng(0))


@pytest.mark.slow
@needs_models
def test_the_command_on_smollm2_with_a_table_of_the_users_own(tmp_path):
    with open(tmp_path / "own.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(
            (f"{name} number {i}", kind) for i in range(20) for name, kind in (("bread", "food"), ("doctor", "person"))
        )
    config = IclConfig(
        task=str(tmp_path / "own.csv"), per_class=1, items=2, validation=2, draws=1, rates=(0.01,), orders=2, seeds=(0,)
    )
    metrics = run(config, tmp_path / "run", load)
    assert len(metrics["by_layer"]["SimAOU"]) == 30 and metrics["demonstrations"] == 2
    assert metrics["overall"]["SimAOU"]["interval"] is None and -1 < metrics["overall"]["SimAOU"]["mean"] < 1
