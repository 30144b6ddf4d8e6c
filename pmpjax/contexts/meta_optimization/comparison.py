"""Zero-shot, in-context and fine-tuned runs on the same demonstrations, and what a context and training share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.contexts.demonstrations import answer_losses
from pmpjax.contexts.meta_optimization.arms import Tuned, fine_tune, layer_causal
from pmpjax.contexts.meta_optimization.metrics import KINDS, kendall, random_update, sim_am, sim_aou, training_attention
from pmpjax.contexts.meta_optimization.reading import Layout, Reading, in_context, training_rows, zero_shot
from pmpjax.contexts.meta_optimization.record import Model, record
from pmpjax.contexts.prompt import Prompts
from pmpjax.models.attention import HIDDEN
from pmpjax.scoring.options import Item, OptionScoring, option_log_probabilities

Told = Callable[[int], None]
"""Told of the rows that were read."""

ARMS = {"fine_tuned": fine_tune, "layer_causal": layer_causal}


class Questions(NamedTuple):
    """Items to ask about: texts as they stand in a prompt, and the index of each one's class, [N]."""

    queries: Sequence[str]
    labels: np.ndarray


class Bench(NamedTuple):
    """What all runs of a comparison share.

    Fields:
        layout: of prompts.
        batch: rows read at once.
        told: of the rows read.
    """

    layout: Layout
    batch: int = 8
    told: Told = lambda rows: None


class Rates(NamedTuple):
    """The learning rate of each arm."""

    fine_tuned: float
    layer_causal: float


class Validation(NamedTuple):
    """A learning rate, or a set of demonstrations, on validation items.

    Fields:
        accuracy: share of right answers.
        loss: -log p of the right option among all options, mean, in nats; infinite where the run diverged.
    """

    accuracy: float
    loss: float


class Comparison(NamedTuple):
    """What one model does with one list of demonstrations.

    Fields:
        by_layer: for each measure [layers, N].
        correct: for each arm [N], whether each item is answered correctly.
    """

    by_layer: dict[str, np.ndarray]
    correct: dict[str, np.ndarray]


def scores(bench: Bench, model: Model, reading: Reading) -> np.ndarray:
    """[N, C] mean log-probability in nats per token of each option behind each prompt."""
    rows = zip(reading.tokens, reading.last, strict=True)
    items = [Item(row[reading.begin : last + 1].tolist(), bench.layout.options) for row, last in rows]
    return option_log_probabilities(
        model.decoder,
        model.params,
        items,
        OptionScoring(min(bench.batch, len(items))),
        prefix=reading.tokens[0, : reading.begin].tolist(),
    )


def hidden_scores(bench: Bench, model: Model, reading: Reading) -> np.ndarray:
    """The same where no token sees the demonstrations, and all keep their positions."""
    options = bench.layout.options
    owner = np.where(reading.context, 0, -1)
    columns = []
    for option in options:
        tokens = np.pad(reading.tokens, ((0, 0), (0, len(option))))
        answers = reading.last[:, None] + 1 + np.arange(len(option))[None, :]
        np.put_along_axis(tokens, answers, np.array([option], tokens.dtype), axis=1)
        owners = np.broadcast_to(np.pad(owner, (0, len(option)), constant_values=-1)[None], tokens.shape)
        columns.append(-_hidden_losses(model, (tokens, owners, answers), bench.batch) / len(option))
    return np.stack(columns, axis=1)


def validate(bench: Bench, model: Model, reading: Reading, labels: np.ndarray) -> Validation:
    """Accuracy and loss over the options; a model whose log-probabilities are no numbers has diverged."""
    try:
        found = scores(bench, model, reading).astype(np.float64)
    except ValueError:
        if all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(model.params)):
            raise
        return Validation(0.0, float("inf"))
    top = found.max(axis=1, keepdims=True)
    likelihood = found - top - np.log(np.exp(found - top).sum(axis=1, keepdims=True))
    right = np.take_along_axis(likelihood, labels[:, None], axis=1)[:, 0]
    return Validation(float((found.argmax(axis=1) == labels).mean()), float(-right.mean()))


def rate_validations(
    bench: Bench, model: Model, demonstrations: Sequence[str], validation: Questions, rates: Sequence[float]
) -> dict[str, dict[float, Validation]]:
    """Each arm at each rate on the validation items, zero-shot."""
    reading = in_context(bench.layout, demonstrations, validation.queries)
    rows, asked = training_rows(bench.layout, reading), zero_shot(bench.layout, reading)
    found: dict[str, dict[float, Validation]] = {}
    for name, arm in ARMS.items():
        found[name] = {}
        for rate in rates:
            found[name][rate] = validate(bench, arm(model, rows, rate).model, asked, validation.labels)
            bench.told(len(validation.labels))
    return found


def best_rate(found: dict[float, Validation]) -> float:
    """The highest accuracy; of equal ones the lowest loss, then the lowest rate.

    Raises ValueError where every rate diverged.

    >>> best_rate({0.1: Validation(0.5, 0.9), 0.3: Validation(0.7, 0.8), 1.0: Validation(0.7, 0.6)})
    1.0
    """
    finite = {rate: one for rate, one in found.items() if np.isfinite(one.loss)}
    if not finite:
        raise ValueError(
            f"fine-tuning diverged at every rate, {', '.join(f'{rate:g}' for rate in found)}; give lower ones"
        )
    return min(finite, key=lambda rate: (-finite[rate].accuracy, finite[rate].loss, rate))


def compare(
    bench: Bench,
    model: Model,
    demonstrations: Sequence[str],
    questions: Questions,
    rates: Rates,
    generator: np.random.Generator,
) -> Comparison:
    """All arms on the same demonstrations and questions.

    Arms: zero-shot, in-context, fine-tuned, layer-causal, and position-matched: zero-shot at the positions of the
    in-context run. `generator` draws the random updates that similarities are compared with.
    """
    shown = in_context(bench.layout, demonstrations, questions.queries)
    asked, rows = zero_shot(bench.layout, shown), training_rows(bench.layout, shown)
    tuned = {name: arm(model, rows, rate) for (name, arm), rate in zip(ARMS.items(), rates, strict=True)}

    def read(model: Model, reading: Reading, **options: Any):
        return record(model, reading, batch=bench.batch, done=bench.told, **options)

    zero, context, matched = read(model, asked), read(model, shown), read(model, shown, hide=True)
    after = {name: read(arm.model, asked) for name, arm in tuned.items()}
    after_matched = read(tuned["fine_tuned"].model, shown, hide=True)
    one, own = after["fine_tuned"], asked.asked >= 0
    by_layer = {
        "sim_aou": sim_aou(zero.output, context.output, one.output),
        "sim_aou_random": sim_aou(zero.output, context.output, random_update(zero.output, generator)),
        "sim_aou_position_matched": sim_aou(matched.output, context.output, after_matched.output),
        "sim_aou_position": sim_aou(zero.output, matched.output, one.output),
        "sim_aou_layer_causal": sim_aou(zero.output, context.output, after["layer_causal"].output),
        "attention_to_demonstrations": context.share,
        "kendall": _kendall(context.shown, one.query, tuned["fine_tuned"]),
        "kendall_random": kendall(context.shown, generator.normal(size=context.shown.shape)),
    }
    for kind in KINDS:
        ending = "" if kind == "raw" else f"_{kind}"
        by_layer[f"sim_am{ending}"] = sim_am(context.scores, one.scores, own, kind)
        by_layer[f"sim_am_zero_shot{ending}"] = sim_am(context.scores, zero.scores, own, kind)
    by_layer["sim_am_layer_causal"] = sim_am(context.scores, after["layer_causal"].scores, own)
    answers = {
        "zero_shot": scores(bench, model, asked),
        "in_context": scores(bench, model, shown),
        "position_matched": hidden_scores(bench, model, shown),
        **{name: scores(bench, arm.model, asked) for name, arm in tuned.items()},
    }
    return Comparison(by_layer, {name: found.argmax(axis=1) == questions.labels for name, found in answers.items()})


class Orders(NamedTuple):
    """The same demonstrations in several orders, in a context and as training data.

    Fields:
        by_layer: "order_in_context" and "order_fine_tuned", [layers, N]: mean similarity of attention's update in the
            first order to that in each other one.
        accuracy: for both arms, one of each order.
        changed: for both arms, the share of items whose answer is not the same in all orders.
    """

    by_layer: dict[str, np.ndarray]
    accuracy: dict[str, list[float]]
    changed: dict[str, float]


def compare_orders(
    bench: Bench,
    model: Model,
    orders: Sequence[Sequence[str]],
    questions: Questions,
    rate: float,
) -> Orders:
    """How much the order of the demonstrations matters to a context and to fine-tuning (at one rate)."""
    if len(orders) < 2:
        raise ValueError(f"{len(orders)} orders of the demonstrations; give two or more to compare")
    asked = zero_shot(bench.layout, in_context(bench.layout, orders[0], questions.queries))
    zero = record(model, asked, batch=bench.batch, done=bench.told).output
    outputs: dict[str, list[np.ndarray]] = {"in_context": [], "fine_tuned": []}
    answers: dict[str, list[np.ndarray]] = {"in_context": [], "fine_tuned": []}
    for order in orders:
        shown = in_context(bench.layout, order, questions.queries)
        tuned = fine_tune(model, training_rows(bench.layout, shown), rate).model
        for name, at, reading in (("in_context", model, shown), ("fine_tuned", tuned, asked)):
            outputs[name].append(record(at, reading, batch=bench.batch, done=bench.told).output)
            answers[name].append(scores(bench, at, reading).argmax(axis=1))
    said = {name: np.stack(found) for name, found in answers.items()}
    return Orders(
        {
            f"order_{name}": np.mean([sim_aou(zero, found[0], other) for other in found[1:]], axis=0)
            for name, found in outputs.items()
        },
        {name: (found == questions.labels[None]).mean(axis=1).tolist() for name, found in said.items()},
        {name: float((found != found[:1]).any(axis=0).mean()) for name, found in said.items()},
    )


def _kendall(shown: np.ndarray, query: np.ndarray, tuned: Tuned) -> np.ndarray:
    return kendall(shown, training_attention(query, np.asarray(tuned.queries)))


def _hidden_losses(model: Model, rows: tuple[np.ndarray, ...], batch: int) -> np.ndarray:
    count = len(rows[0])
    parts = []
    for begin in range(0, count, batch):
        index = np.resize(np.arange(begin, min(begin + batch, count)), min(batch, count))
        part = _losses(model.decoder, model.params, *(leaf[index] for leaf in rows))
        parts.append(np.asarray(part)[: min(batch, count - begin)])
    return np.concatenate(parts)


def _unseen(decoder: Any, params: Any, tokens: Any, owner: Any, answers: Any) -> Any:
    return answer_losses(decoder, params, Prompts(tokens, owner, answers, 1), jnp.full(1, HIDDEN))


_losses = jax.jit(_unseen, static_argnums=0)
