"""Prototypes against fixed numbers of them, plain heads and 1-NN.

    python experiments/prototypes_wordnet.py [--trained] [--small] [--out DIR]

16-way WordNet on frozen MiniLM, five paired draws at each number of examples a class, up to all; with each of the four
principles switched off: cells.json and table.md in DIR. With --trained, MiniLM is trained through prototypes and
through a linear head (plain fine-tuning) with 1 and 8 examples a class, at the rate of each that is best on the split
"dev": trained.json and trained.md. A killed run goes on where it stopped. --small only tries the script.
"""

import dataclasses
import functools
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pmpjax.evaluation.tasks import draw, examples_of, load_task
from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.texts import embed_texts, load_text_encoder
from pmpjax.prototypes.fine_tuning.trained import Training, readout_log_probabilities, train_encoder
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
EPOCHS, RATES = {1: 10, 8: 5}, (1e-5, 3e-5, 1e-4)
ARMS = {"trained prototypes": "prototypes", "plain fine-tuning": "linear"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What runs, and where its cells are."""

    out: Path = Path("runs/prototypes-wordnet")
    trained: bool = False
    small: bool = False


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


def frozen_vectors(task, out):
    """Unit vectors of all glosses by MiniLM as it is, made once."""
    if not (out / "vectors.npz").exists():
        write_arrays(out / "vectors.npz", {"vectors": embed_texts(load_text_encoder("minilm"), task.texts)})
    return read_arrays(out / "vectors.npz")["vectors"]


def run(out):
    """Embeds the glosses once, then fills the cells; returns the table."""
    task = load_task("wordnet")
    vectors, test = frozen_vectors(task, out), examples_of(task, "test")
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


def right(found, labels):
    """Accuracy of log-probabilities, in percent."""
    return 100 * float(np.mean(np.argmax(found, axis=1) == labels))


def trained_cell(encoder, arm, rate, size, seed, parts):
    """Trains one encoder; accuracy on dev and test. Prototypes are fitted again to its vectors, as the command does."""
    drawn, others = parts
    training = Training(readout=ARMS[arm], epochs=EPOCHS[size], learning_rate=rate, seed=seed)
    done = train_encoder(encoder, drawn.texts, drawn.labels, training)
    if training.readout == "prototypes":
        model = PrototypeClassifier(seed=seed).fit(embed_texts(done.encoder, drawn.texts), drawn.labels)
        predict = model.predict_log_proba
    else:
        predict = functools.partial(_of_readout, done.readout, len(np.unique(drawn.labels)))
    found = {name: right(predict(embed_texts(done.encoder, one.texts)), one.labels) for name, one in others.items()}
    return found | {"losses": done.losses}


def _of_readout(readout, classes, states):
    return readout_log_probabilities(readout, jnp.asarray(states), classes)


def run_trained(options):
    """Fills the cells of every arm, rate, size and seed; returns the table."""
    task = load_task("wordnet:food,person" if options.small else "wordnet")
    sizes, seeds, rates = ((1,), (0, 1), RATES[:1]) if options.small else (tuple(EPOCHS), SEEDS, RATES)
    file, encoder = options.out / "trained.json", load_text_encoder("minilm")
    others = {name: examples_of(task, name) for name in ("dev", "test")}
    if options.small:
        others = {name: draw(task, 8, 0, split=name) for name in others}
    cells = read_json(file) if file.exists() else {}
    for size, seed in ((size, seed) for size in sizes for seed in seeds):
        drawn = draw(task, size, seed)
        for arm, rate in ((arm, rate) for arm in ARMS for rate in rates):
            name, begin = f"{arm}/{rate:g}/{size}/{seed}", time.perf_counter()
            if name not in cells:
                cells[name] = trained_cell(encoder, arm, rate, size, seed, (drawn, others))
                write_json(file, cells)
                print(name, f"{time.perf_counter() - begin:.0f} s", cells[name])
        name = f"frozen prototypes/0/{size}/{seed}"
        if name not in cells:
            model = PrototypeClassifier(seed=seed).fit(embed_texts(encoder, drawn.texts), drawn.labels)
            cells[name] = {
                part: right(model.predict_log_proba(embed_texts(encoder, one.texts)), one.labels)
                for part, one in others.items()
            }
            write_json(file, cells)
    shown = trained_table(cells, sizes, seeds, rates)
    write_text(options.out / "trained.md", shown)
    return shown


def trained_table(cells, sizes, seeds, rates):
    """Test accuracy of each arm at the rate of best mean dev accuracy, and the paired intervals."""
    lines = ["| accuracy, % | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 1) + "|"]
    values = {}
    for arm in ("frozen prototypes", *ARMS):
        shown = []
        for size in sizes:
            own = {
                rate: [cells[f"{arm}/{rate:g}/{size}/{seed}"] for seed in seeds]
                for rate in (rates if arm in ARMS else (0,))
            }
            best = max(own, key=lambda rate, own=own: np.mean([cell["dev"] for cell in own[rate]]))
            values[arm, size] = [cell["test"] for cell in own[best]]
            shown.append(f"{np.mean(values[arm, size]):.1f}" + (f" (rate {best:g})" if best else ""))
        lines.append(f"| {arm} | " + " | ".join(shown) + " |")
    for other in ("plain fine-tuning", "frozen prototypes"):
        found = [paired_difference(values["trained prototypes", size], values[other, size]) for size in sizes]
        shown = [f"{f['mean']:+.1f} [{f['interval'][0]:+.1f}, {f['interval'][1]:+.1f}]" for f in found]
        lines.append(f"| trained prototypes less {other} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    print(run_trained(chosen) if chosen.trained else run(chosen.out))
