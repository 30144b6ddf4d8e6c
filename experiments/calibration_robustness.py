"""Calibration under 120 prompts: how much do wording, order and balance still matter?

`python experiments/calibration_robustness.py`. SmolLM2 tells WordNet's glosses of food from those of persons under 5
templates x 8 orders of four demonstrations x 3 proportions of their classes. Each method is fitted to the scores of 100
training texts and measured on 100 of the test split; "supervised" alone sees labels. Scores are kept in OUT: a stopped
run goes on.
"""

import argparse
import itertools
from pathlib import Path

import jax
import numpy as np

from pmpjax.evaluation.tasks import draw, examples_of, load_task
from pmpjax.evaluation.tasks.task import take
from pmpjax.prototypes import Calibrator
from pmpjax.prototypes.prompted import CONTENT_FREE, Template, label_scores, load_model
from pmpjax.runs.files import read_arrays, write_arrays, write_json
from pmpjax.runs.plots import figure
from pmpjax.runs.progress import progress

WORDS = {"food": " food", "person": " person"}
TEMPLATES = (
    Template("{text} It is a", WORDS),
    Template("Definition: {text}\nCategory:", WORDS),
    Template("{text}\nThis defines a", WORDS, separator="\n"),
    Template("Q: Is this a food or a person? {text}\nA: a", WORDS),
    Template("Text: {text}\nLabel:", WORDS, begin="Label each text as food or person.\n\n"),
)
PROPORTIONS = ((2, 2), (3, 1), (1, 3))
METHODS = ("argmax", "contextual", "batch", "prototypical", "supervised")


def orders(count: int) -> list[np.ndarray]:
    """Eight different orders of four demonstrations, the same in every setting."""
    every = np.array(list(itertools.permutations(range(4))))
    return list(every[np.asarray(jax.random.permutation(jax.random.key(0), len(every)))[:count]])


def accuracies(held: dict[str, np.ndarray]) -> list[float]:
    """Of each method, on the texts that none was fitted to."""
    fit, labels, found = held["fit"].astype(bool), held["labels"], []
    for method in METHODS:
        y = labels[fit] if method == "supervised" else None
        calibrator = Calibrator(method).fit(held["logp"][fit], y, content_free=held["content_free"])
        found.append(float(np.mean(np.argmax(calibrator.predict_proba(held["logp"][~fit]), axis=1) == labels[~fit])))
    return found


def main(out: Path, texts: int, permutations: int) -> None:
    task, model = load_task("wordnet:food,person"), load_model("smollm2")
    pool = draw(task, 4, seed=0)
    by_class = [np.flatnonzero(pool.labels == label) for label in range(2)]
    train = task.splits["train"]
    fitted = take(task, train[~np.isin(train, pool.index)][:texts])
    tested = take(task, examples_of(task, "test").index[:texts])
    settings = list(itertools.product(range(len(TEMPLATES)), range(len(PROPORTIONS)), range(permutations)))
    found = np.zeros((len(TEMPLATES), len(PROPORTIONS), permutations, len(METHODS)))
    with progress("settings", total=len(settings)) as bar:
        for template, proportion, permutation in settings:
            path = out / f"{template}-{proportion}-{permutation}.npz"
            if not path.exists():
                shown = np.concatenate([rows[:n] for rows, n in zip(by_class, PROPORTIONS[proportion], strict=True)])
                shown = shown[orders(permutations)[permutation]]
                pairs = [(pool.texts[n], task.classes[pool.labels[n]]) for n in shown]
                logp = label_scores(model, TEMPLATES[template], [*CONTENT_FREE, *fitted.texts, *tested.texts], pairs)
                empty, logp = logp[: len(CONTENT_FREE)], logp[len(CONTENT_FREE) :]
                labels, fit = np.concatenate([fitted.labels, tested.labels]), np.arange(len(logp)) < len(fitted.texts)
                write_arrays(path, {"logp": logp, "labels": labels, "content_free": empty, "fit": fit})
            found[template, proportion, permutation] = accuracies(read_arrays(path))
            bar.update()
    show(100 * found, out)


def show(found: np.ndarray, out: Path) -> None:
    """Table, `accuracies.json` and picture of accuracies [templates, proportions, orders, methods]."""
    print(
        "| method | mean | deviation | lowest | over templates | over proportions | over orders |\n|---|" + "---|" * 6
    )
    for number, method in enumerate(METHODS):
        x = found[..., number]
        spreads = (x.mean((1, 2)).std(ddof=1), x.mean((0, 2)).std(ddof=1), x.std(axis=2, ddof=1).mean())
        print(f"| {method} | {x.mean():.1f} | {x.std(ddof=1):.1f} | {x.min():.1f} |", *(f"{s:.1f} |" for s in spreads))
    write_json(out / "accuracies.json", {"methods": METHODS, "accuracy": found.tolist()})
    with figure(out / "calibration_robustness", width=5, height=3) as (_, axes):
        axes[0, 0].boxplot([found[..., n].ravel() for n in range(len(METHODS))], tick_labels=METHODS, whis=(0, 100))
        axes[0, 0].set(ylabel="accuracy, %", title=f"{found[..., 0].size} prompts: templates x proportions x orders")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration-robustness"))
    parser.add_argument("--texts", type=int, default=100, help="fitted, and as many tested")
    parser.add_argument("--permutations", type=int, default=8)
    main(**vars(parser.parse_args()))
