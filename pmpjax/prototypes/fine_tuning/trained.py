"""The encoder trained end to end, through its prototypes or through a linear head (plain fine-tuning)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pmpjax.prototypes.fine_tuning.fit import Policy, fit_prototypes
from pmpjax.prototypes.fine_tuning.store import Prototypes, class_log_probabilities
from pmpjax.prototypes.fine_tuning.texts import TextEncoder, embed_texts, padded, within_positions
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key


@dataclasses.dataclass(frozen=True)
class Training:
    """How an encoder is trained.

    Attributes:
        readout: "prototypes", or "linear": plain fine-tuning through a `Linear` head, which begins at the class means.
        epochs: over the texts; the prototypes are grown again at the beginning of each.
        batch: texts in a step.
        learning_rate: of AdamW on the encoder; prototypes and head have ten times as much.
        concentration: alpha of the prototypes that are grown while the encoder is trained.
        temperature: T of the loss. Prototypes lie among the very texts that are trained on, and of one text a class
            they are those texts: at T = 1 the loss is about 0 from the beginning, and nothing is learned.
        seed: of the order of the texts.
    """

    readout: Literal["prototypes", "linear"] = "prototypes"
    epochs: int = 3
    batch: int = 16
    learning_rate: float = 3e-5
    concentration: float = 1e-3
    temperature: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0 or self.temperature <= 0:
            raise ValueError(
                f"epochs {self.epochs} and batch {self.batch} must be at least 1, learning_rate {self.learning_rate} "
                f"and temperature {self.temperature} above 0"
            )
        if self.readout not in ("prototypes", "linear"):
            raise ValueError(f"readout is {self.readout!r}, expected 'prototypes' or 'linear'")


class Trained(NamedTuple):
    """What training leaves.

    Fields:
        encoder: with the trained parameters.
        losses: mean loss of each epoch, in nats.
        readout: trained with it, `Prototypes` or `Linear`; see `readout_log_probabilities`.
    """

    encoder: TextEncoder
    losses: list[float]
    readout: Any


class Linear(NamedTuple):
    """log p(y | h) = log softmax_y (<w_y, h> / s + b_y): a linear head whose weights are of the states' scale.

    Fields:
        weights: w, trained.
        bias: b, trained.
        scale: s, fixed: a step of w and one of a prototype change log-probabilities by as much.
    """

    weights: Float[Array, "c d"]
    bias: Float[Array, " c"]
    scale: Float[Array, ""]


def train_encoder(
    encoder: TextEncoder,
    texts: Sequence[str],
    labels: Int[np.ndarray, " n"],
    training: Training = Training(),
    *,
    policy: Policy = Policy(),
    bar: Bar | None = None,
) -> Trained:
    """AdamW on theta and the readout: mean_n -log softmax_y (log p(y | f_theta(x_n)) / T) at y_n, a step a batch.

    At the beginning of each epoch all texts are embedded and the prototypes fitted to them (creation, pruning, and
    refinement, without gradients through these choices); within it, points and log-weights are trained with the
    encoder. Fit a `PrototypeClassifier` to the trained encoder's vectors, and `calibrate` it to texts that the encoder
    was not trained on: it has learned the others.

    Args:
        labels: from 0 to C - 1, each with an example.

    Raises ValueError: another number of labels than of texts, a class without an example, a loss that is not finite.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(labels) != len(texts) or classes < 2 or (np.bincount(labels) == 0).any():
        raise ValueError(
            f"{len(labels)} labels of {classes} classes for {len(texts)} texts; give one for each, of two classes at "
            "least, and an example of each class"
        )
    rows, params, losses = encoder.ids(texts), encoder.params, []
    generator = stage_generator(training.seed, "order")
    readout: Any = None
    optimizer = _optimizer(training.learning_rate)
    state: Any = None
    step = functools.partial(_step, encoder.embed, optimizer, classes, training.temperature)
    for _ in range(training.epochs):
        if readout is None or training.readout == "prototypes":
            vectors = embed_texts(encoder._replace(params=params), texts)
            readout = _readout(vectors, labels, classes, training, policy)
            fresh = optimizer.init((params, _trainable(readout)))
            state = fresh if state is None else _with_encoder_of(state, fresh)
        total = 0.0
        order = generator.permutation(len(rows))
        for first in range(0, len(order), training.batch):
            part = order[first : first + training.batch]
            tokens, lengths = padded([rows[number] for number in part], training.batch)
            tokens = within_positions(encoder, tokens)
            known = np.zeros(training.batch, np.int32)
            known[: len(part)] = labels[part]
            weights = (np.arange(training.batch) < len(part)).astype(np.float32)
            inputs = (jnp.asarray(one) for one in (tokens, lengths, known, weights))
            params, readout, state, loss = step(params, readout, state, *inputs)
            total += float(loss) * len(part)
            if bar is not None:
                bar.update(1, loss=float(loss))
        losses.append(total / len(order))
        if not np.isfinite(losses[-1]):
            raise ValueError(f"the loss of epoch {len(losses)} is not finite; lower the learning rate")
    return Trained(encoder._replace(params=params), losses, readout)


def readout_log_probabilities(
    readout: Prototypes | Linear, states: Float[Array, "n d"], classes: int
) -> Float[Array, "n c"]:
    """log p(y | h) of prototypes (`class_log_probabilities`), or of a linear head."""
    if isinstance(readout, Linear):
        return jax.nn.log_softmax(states @ readout.weights.T / readout.scale + readout.bias[None, :], axis=1)
    return class_log_probabilities(readout, states, classes)


@functools.cache
def _optimizer(learning_rate: float) -> optax.GradientTransformation:
    """One object for each rate, so that a second run finds the compiled step."""
    rates: Any = {"encoder": optax.adamw(learning_rate), "readout": optax.adam(10 * learning_rate)}
    return optax.multi_transform(rates, ("encoder", "readout"))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(embed, optimizer, classes, temperature, params, readout, state, tokens, lengths, labels, weights):
    def loss(trained: Any) -> Array:
        params, own = trained
        states = embed(params, tokens, lengths)
        found = jax.nn.log_softmax(
            readout_log_probabilities(_with(readout, own), states, classes) / temperature, axis=1
        )
        return -jnp.sum(weights * jnp.take_along_axis(found, labels[:, None], axis=1)[:, 0]) / jnp.sum(weights)

    trained = (params, _trainable(readout))
    value, gradient = jax.value_and_grad(loss)(trained)
    updates, state = optimizer.update(gradient, state, trained)
    trained: Any = optax.apply_updates(trained, updates)
    return trained[0], _with(readout, trained[1]), state, value


def _trainable(readout: Any) -> Any:
    return readout[:2] if isinstance(readout, Linear) else (readout.points, readout.log_weight)


def _with(readout: Any, own: Any) -> Any:
    if isinstance(readout, Linear):
        return readout._replace(weights=own[0], bias=own[1])
    return readout._replace(points=own[0], log_weight=own[1])


def _readout(vectors: np.ndarray, labels: np.ndarray, classes: int, training: Training, policy: Policy) -> Any:
    """Prototypes of these vectors, or the linear head that one prototype a class is."""
    linear = training.readout == "linear"
    own = dataclasses.replace(policy, per_class=1) if linear else policy
    store = fit_prototypes(
        stage_key(training.seed, "prototypes"),
        jnp.asarray(vectors),
        jnp.asarray(labels),
        jnp.ones(len(labels)),
        training.concentration,
        classes=classes,
        policy=own,
    )
    return linear_head(store) if linear else store


def linear_head(store: Prototypes) -> Linear:
    """w = p, s = sigma and b = log pi - |p|^2 / (2 sigma): one prototype a class is a linear head, exactly."""
    variance = jnp.exp(store.log_variance)
    bias = store.log_weight - jnp.sum(store.points**2, axis=1) / (2 * variance)
    return Linear(store.points, bias, variance)


def _with_encoder_of(state: Any, fresh: Any) -> Any:
    """The encoder's moments go on; those of prototypes that were grown anew begin again."""
    return fresh._replace(inner_states=fresh.inner_states | {"encoder": state.inner_states["encoder"]})
