"""Demonstrations as training data: fine-tuning of keys and values, and the same with layers that know none above."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pmpjax.contexts.meta_optimization.reading import TrainingRows
from pmpjax.contexts.meta_optimization.record import Model, embedded, queries
from pmpjax.models import Decoder, Parameters, cross_entropy
from pmpjax.models.decoder import Block, Seen
from pmpjax.models.layers import Norm, apply

_TRAINED = ("key", "value")


class Tuned(NamedTuple):
    """What an epoch over the demonstrations leaves.

    Fields:
        model: with changed key and value projections; all else is the given model's.
        queries: [layers, M, H d] the query vectors of the demonstrations' tokens, each at the parameters that met it.
        losses: [K] nats per token, before each step.
    """

    model: Model
    queries: Float[Array, "layers m f"]
    losses: Float[Array, " k"]


def key_values(params: Parameters) -> dict[str, Any]:
    """The key and value projections of all layers, with their biases: what is trained."""
    return {name: params["trunk"]["layers"][name] for name in _TRAINED}


def with_key_values(params: Parameters, trained: dict[str, Any]) -> Parameters:
    """The parameters with other key and value projections."""
    return {**params, "trunk": {**params["trunk"], "layers": {**params["trunk"]["layers"], **trained}}}


def fine_tune(model: Model, rows: TrainingRows, rate: float) -> Tuned:
    """theta_{i+1} = theta_i - eta grad l_i(theta_i), one step a demonstration, in their order, once.

    theta are the key and value projections alone; l_i is the mean loss in nats over the demonstration's own tokens.
    Plain SGD with a constant rate: arXiv 2212.10559 and its authors' code.
    """
    return _tuned(model, _epoch(model.decoder, model.params, rows, rate, False))


def layer_causal(model: Model, rows: TrainingRows, rate: float) -> Tuned:
    """The same with a loss for each layer at its own output: no layer's change depends on a layer above it.

        theta_l <- theta_l - eta grad l(W norm(block_l(h_l; theta_l))),   h_{l+1} = block_l(h_l; changed theta_l)

    W is the output matrix, behind the last norm. In a context information flows upwards alone, and so it does here;
    the gradient of the last layer's loss comes from above. In the style of Deutch et al. (arXiv 2311.07772).
    """
    return _tuned(model, _epoch(model.decoder, model.params, rows, rate, True))


def _tuned(model: Model, found: tuple[Any, Array, Array]) -> Tuned:
    trained, seen, losses = found
    return Tuned(Model(model.decoder, with_key_values(model.params, trained)), seen, losses)


@functools.partial(jax.jit, static_argnames=("decoder", "by_layer"))
def _epoch(
    decoder: Decoder, params: Parameters, rows: TrainingRows, rate: Array | float, by_layer: bool
) -> tuple[Any, Array, Array]:
    gradient = _layer_gradients if by_layer else _gradient

    def step(trained: Any, row: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        tokens, labels = row[0][None], row[1]
        now = with_key_values(params, trained)
        loss, changed = gradient(decoder, now, tokens, labels, rate)
        return changed, (queries(decoder, now, tokens)[:, 0], loss)

    trained, (seen, losses) = jax.lax.scan(step, key_values(params), (jnp.asarray(rows.tokens), rows.labels))
    # [rows, layers, L, f] -> the tokens shown, in their order.
    return trained, jnp.moveaxis(seen[rows.shown[0], :, rows.shown[1]], 1, 0), losses


def _gradient(decoder: Decoder, params: Parameters, tokens: Array, labels: Array, rate: Array | float) -> Any:
    def loss(trained: Any) -> Array:
        each = apply(decoder, with_key_values(params, trained), tokens, method="token_losses")[0]
        return jnp.sum(each * labels) / jnp.sum(labels)

    value, slope = jax.value_and_grad(loss)(key_values(params))
    return value, _descended(key_values(params), slope, rate)


def _layer_gradients(decoder: Decoder, params: Parameters, tokens: Array, labels: Array, rate: Array | float) -> Any:
    config = decoder.config
    output = params["trunk"]["embedding"] if config.tied_embeddings else params["output"]
    seen = Seen(jnp.arange(tokens.shape[1])[None, :])

    def local_loss(trained: Any, layer: Parameters, h: Array) -> Array:
        h = apply(Block(config), {**layer, **trained}, h, seen, None)[0]
        h = apply(Norm(config.norm, config.norm_epsilon), params["trunk"]["norm"], h)[0, :-1]
        return jnp.sum(cross_entropy(h, output, tokens[0, 1:], config.loss_chunk) * labels) / jnp.sum(labels)

    def layer(h: Array, layer: Parameters) -> tuple[Array, tuple[Array, Any]]:
        trained = {name: layer[name] for name in _TRAINED}
        value, slope = jax.value_and_grad(local_loss)(trained, layer, h)
        changed = _descended(trained, slope, rate)
        return apply(Block(config), {**layer, **changed}, h, seen, None)[0], (value, changed)

    _, (losses, changed) = jax.lax.scan(layer, embedded(decoder, params, tokens), params["trunk"]["layers"])
    return losses[-1], changed


def _descended(params: Any, slope: Any, rate: Array | float) -> Any:
    return jax.tree.map(lambda value, part: value - rate * part, params, slope)
