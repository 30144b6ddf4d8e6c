"""Why calibration matters, in one table: SmolLM2 tells food from persons by the arbitrary labels A and B.

`python experiments/arbitrary_labels.py`. Five draws of four demonstrations of each class, their template chosen on
training texts. Each method is fitted to 200 training texts and measured on the test split; "supervised" alone sees
labels. Scores are kept in OUT: a stopped run goes on.
"""

import sys
from pathlib import Path

import numpy as np

from pmpjax.evaluation.tasks import draw, examples_of, load_task
from pmpjax.evaluation.tasks.task import take
from pmpjax.prototypes import Calibrator
from pmpjax.prototypes.comparison import area_under_curve
from pmpjax.prototypes.prompted import CONTENT_FREE, Template, label_scores, load_model
from pmpjax.runs.files import read_arrays, write_arrays, write_json
from pmpjax.runs.progress import progress
from pmpjax.statistics.intervals import estimate

TEMPLATE = Template("Definition: {text}\nClass:", {"food": " A", "person": " B"})
METHODS = ("argmax", "contextual", "batch", "prototypical", "supervised")
SEEDS = range(5)


def main(out: Path) -> None:
    task, model = load_task("wordnet:food,person"), load_model("smollm2")
    tested = examples_of(task, "test")
    accuracy: dict[str, list[float]] = {method: [] for method in METHODS}
    areas = []
    with progress("draws", total=len(SEEDS)) as bar:
        for seed in SEEDS:
            path = out / f"{seed}.npz"
            shown = draw(task, 4, seed)
            train = task.splits["train"]
            fitted = take(task, train[~np.isin(train, shown.index)][:200])
            labels = np.concatenate([fitted.labels, tested.labels])
            if not path.exists():
                pairs = [(text, task.classes[label]) for text, label in zip(shown.texts, shown.labels, strict=True)]
                found = label_scores(model, TEMPLATE, [*CONTENT_FREE, *fitted.texts, *tested.texts], pairs)
                write_arrays(path, {"logp": found[len(CONTENT_FREE) :], "content_free": found[: len(CONTENT_FREE)]})
            held, fit = read_arrays(path), np.arange(len(labels)) < len(fitted.texts)
            for method in METHODS:
                y = labels[fit] if method == "supervised" else None
                calibrator = Calibrator(method).fit(held["logp"][fit], y, content_free=held["content_free"])
                probabilities = calibrator.predict_proba(held["logp"][~fit])
                accuracy[method].append(100 * float(np.mean(np.argmax(probabilities, axis=1) == labels[~fit])))
                if method == "argmax":
                    areas.append(100 * (area_under_curve(probabilities, labels[~fit]) or float("nan")))
            bar.update()
    write_json(out / "metrics.json", {"accuracy": accuracy, "auc": areas})
    for name, values in {**accuracy, "AUC": areas}.items():
        found = estimate(values)
        print(
            f"| {name} | "
            + " | ".join(f"{value:.1f}" for value in values)
            + f" | {found.mean:.1f} +- {found.half_width:.1f} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/arbitrary-labels"))
