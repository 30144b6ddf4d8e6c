"""Prototypes against fixed numbers of them, plain heads and 1-NN: `python experiments/prototypes_wordnet.py [OUT]`.

16-way WordNet on frozen MiniLM, five paired draws at each number of examples a class, up to all; with each of the four
principles switched off. A killed run goes on where it stopped; OUT has cells.json and the table.
"""

import sys
import time
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pmpjax.evaluation.tasks import draw, examples_of, load_task
from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.texts import embed_texts, load_text_encoder
from pmpjax.runs.files import read_arrays, read_json, write_arrays, write_json, write_text
from pmpjax.statistics import paired_difference

PER_CLASS, SEEDS, FIXED = (1, 8, 32, 128, 280), (0, 1, 2, 3, 4), (1, 2, 4, 8)
POLICIES = {
    "prototypes": Policy(),
    "without mixture initialisation": Policy(initialisation="example"),
    "without creation": Policy(per_class=1),
    "without refinement": Policy(refine=False),
    "without diversity": Policy(diversity=0.0),
}


def fixed(states, labels, number, seed):
    """The nearest of k-means' centres of each class."""
    centres, classes = [], []
    for label in np.unique(labels):
        own = states[labels == label]
        found = KMeans(min(number, len(own)), n_init=4, random_state=seed).fit(own).cluster_centers_
        centres.append(found)
        classes += [label] * len(found)
    return KNeighborsClassifier(1).fit(np.concatenate(centres), classes)


def methods(states, labels, seed):
    """(name, fitted) of every method."""
    yield "logistic regression", LogisticRegression(max_iter=1_000).fit(states, labels)
    yield "1-NN", KNeighborsClassifier(1).fit(states, labels)
    yield from ((f"{number} fixed", fixed(states, labels, number, seed)) for number in FIXED)
    for name, policy in POLICIES.items():
        yield name, PrototypeClassifier(policy=policy, seed=seed).fit(states, labels)


def table(cells):
    """Accuracy at each number of examples, and the paired intervals of the prototypes' differences."""
    sizes = [size for size in PER_CLASS if all(f"{size}/{seed}" in cells for seed in SEEDS)]
    of = {size: [cells[f"{size}/{seed}"] for seed in SEEDS] for size in sizes}
    names = list(of[sizes[0]][0]["accuracy"])
    values = {(name, size): [cell["accuracy"][name] for cell in of[size]] for name in names for size in sizes}
    lines = ["| accuracy, % | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(f"{np.mean(values[name, size]):.1f}" for size in sizes) + " |")
    counts = [f"{np.mean([cell['prototypes'] for cell in of[size]]):.0f}" for size in sizes]
    lines.append("| number of prototypes | " + " | ".join(counts) + " |")
    best = {s: max((f"{k} fixed" for k in FIXED), key=lambda name, s=s: np.mean(values[name, s])) for s in sizes}
    rows = [("best fixed number", best)] + [(n, dict.fromkeys(sizes, n)) for n in names if "fixed" not in n]
    for name, against in rows:
        if name != "prototypes":
            found = [paired_difference(values["prototypes", size], values[against[size], size]) for size in sizes]
            shown = [f"{f['mean']:+.1f} [{f['interval'][0]:+.1f}, {f['interval'][1]:+.1f}]" for f in found]
            lines.append(f"| prototypes less {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def run(out):
    """Embeds the glosses once, then fills the cells; returns the table."""
    task = load_task("wordnet")
    if not (out / "vectors.npz").exists():
        write_arrays(out / "vectors.npz", {"vectors": embed_texts(load_text_encoder("minilm"), task.texts)})
    vectors, test = read_arrays(out / "vectors.npz")["vectors"], examples_of(task, "test")
    cells = read_json(out / "cells.json") if (out / "cells.json").exists() else {}
    for size in PER_CLASS:
        for seed in SEEDS:
            if f"{size}/{seed}" not in cells:
                begin, drawn, number = time.perf_counter(), draw(task, size, seed), 0
                accuracy = {}
                for name, model in methods(vectors[drawn.index], drawn.labels, seed):
                    accuracy[name] = 100 * float(np.mean(model.predict(vectors[test.index]) == test.labels))
                    number = int(model.n_prototypes_.sum()) if name == "prototypes" else number
                seconds = time.perf_counter() - begin
                cells[f"{size}/{seed}"] = {"accuracy": accuracy, "prototypes": number, "seconds": seconds}
                write_json(out / "cells.json", cells)
                print(size, seed, f"{seconds:.0f} s", {name: round(value, 1) for name, value in accuracy.items()})
    write_text(out / "table.md", table(cells))
    return table(cells)


if __name__ == "__main__":
    print(run(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/prototypes-wordnet")))
