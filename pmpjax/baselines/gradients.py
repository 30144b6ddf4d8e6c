"""Gradient similarity, as LESS takes it: the cosine of a document's Adam update and the target's gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from pmpjax.baselines.instances import (
    Scorer,
    check_positive,
    dev_rows,
    document_scores,
    row_values,
    source_rows,
)
from pmpjax.control import trees
from pmpjax.data import Prepared, Rows
from pmpjax.models import Decoder, example_losses, parameter_count
from pmpjax.train.heldout import set_loss


class Sketch(NamedTuple):
    """A random projection of P numbers to k, drawn by `draw_sketch`; P + P / k small integers, no P x k matrix.

    Fields:
        signs: [ceil(P / k), k] int8, each +1 or -1.
        shifts: [ceil(P / k)] int32.
    """

    signs: Int[Array, "blocks k"]
    shifts: Int[Array, " blocks"]


def gradient_similarity(
    decoder: Decoder,
    proxy_params: Any,
    *,
    opt_state: Any = None,
    first_moment: float = 0.9,
    second_moment: float = 0.98,
    dimension: int = 8192,
    chunk: int = 8,
) -> Scorer:
    """s_d = cos(S grad L_dev(theta), S Gamma_d), S a random projection to `dimension` numbers.

    Gamma of a row with gradient g is the direction in which Adam would move at that row,
    (m / c1) / (sqrt(v / c2) + eps) with m = b1 m0 + (1 - b1) g and v = b2 v0 + (1 - b2) g^2 from the moments m0, v0 of
    `opt_state`; without one it is g itself. The target's gradient is a plain one in either case, as in the paper. An
    instance is a row: a document's score is the mean of its rows' cosines weighted by their labels. The key draws S.

    The paper adds this over checkpoints of a warm-up run with low-rank adapters, weighted by the learning rate; here
    there is one, theta, with all its parameters. Gradients of `chunk` rows are in memory at a time.

    Args:
        proxy_params: theta, as `decoder` takes it.
        opt_state: of an optax rule with Adam's moments, at theta; None for plain gradients.
        first_moment, second_moment: b1 and b2 of that rule.
        dimension: k; where it is at least the number of parameters S loses nothing.
        chunk: rows evaluated at once.

    Raises:
        ValueError: a setting is out of range; `opt_state` has no moments or those of other parameters; when called: the
            dev split has no label, a score is not finite.

    Source: LESS (arXiv 2402.04333), definition 3.1 and section 4.
    """
    check_positive("gradient_similarity", dimension=dimension, chunk=chunk)
    for name, value in (("first_moment", first_moment), ("second_moment", second_moment)):
        if not 0 <= value < 1:
            raise ValueError(f"gradient_similarity: {name} is {value}, expected a decay rate in [0, 1)")
    losses = example_losses(decoder)
    size = parameter_count(proxy_params)
    moments = None if opt_state is None else adam_moments(opt_state, proxy_params)
    adam = optax.scale_by_adam(first_moment, second_moment)

    def direction(params: Any, moments: Any, tokens: Array, length: Array) -> Array:
        gradient = jax.grad(lambda p: losses(p, Rows(tokens[None], length[None]))[0])(params)
        if moments is not None:
            gradient, _ = adam.update(gradient, moments)
        return ravel_pytree(gradient)[0]

    @jax.jit
    def target(params: Any, dev: Rows, sketch: Sketch) -> Array:
        return project(sketch, ravel_pytree(jax.grad(set_loss(decoder, dev, chunk))(params))[0])

    @jax.jit
    def cosines(operands: tuple[Any, Any, Sketch, Array], rows: Rows) -> Array:
        params, moments, sketch, desired = operands

        def cosine(tokens: Array, length: Array) -> Array:
            found = project(sketch, direction(params, moments, tokens, length))
            norms = jnp.linalg.norm(found) * jnp.linalg.norm(desired)
            # A row without a label has no gradient; its weight in the document's mean is zero.
            return jnp.where(norms > 0, found @ desired / jnp.where(norms > 0, norms, 1.0), 0.0)

        return jax.vmap(cosine)(jnp.asarray(rows.tokens), jnp.asarray(rows.lengths))

    def score(prepared: Prepared, key: Array) -> Array:
        params = jax.tree.map(jnp.asarray, proxy_params)
        sketch = draw_sketch(key, size, dimension)
        desired = target(params, dev_rows(prepared), sketch)
        values = row_values(cosines, (params, moments, sketch, desired), source_rows(prepared), chunk)
        return document_scores(prepared, values, "gradient_similarity", "train the proxy at a lower learning rate")

    return score


def gradient_flops(forward: Callable[[int], float | int], *, rows: int, dev_rows: int) -> float | int:
    """A gradient of the dev split and of each row of the source; their projection, a hundredth of that, is left out.

    `forward(rows)`: FLOPs of a forward pass over so many rows; a gradient costs it 3 times.

    >>> gradient_flops(lambda rows: rows, rows=1000, dev_rows=100)
    3300
    """
    return 3 * forward(rows) + 3 * forward(dev_rows)


def draw_sketch(key: Array, size: int, dimension: int) -> Sketch:
    """Independent signs, and for each block of k coordinates a cyclic shift, uniform in 0..k-1."""
    blocks = -(-size // dimension)
    signs = jax.random.rademacher(key, (blocks, dimension), jnp.int8)
    return Sketch(signs, jax.random.randint(jax.random.fold_in(key, 1), (blocks,), 0, dimension))


def project(sketch: Sketch, vector: Float[Array, " p"]) -> Float[Array, " k"]:
    """(S x)_j = sum over blocks b of (signs * x)_{b, (j - shift_b) mod k}: S has one entry, +1 or -1, in each column.

    E <S x, S y> = <x, y>, with variance at most 2 |x|^2 |y|^2 / k: the bounds of a count-sketch, whose proof asks of
    two coordinates only that they fall together with probability 1/k at most. Here they do so with 1/k in different
    blocks and never in one. No scatter is needed, and of one block S is orthogonal.

    Source: Weinberger et al. (arXiv 0902.2206), feature hashing.
    """
    blocks, k = sketch.signs.shape
    signed = jnp.pad(vector, (0, blocks * k - vector.shape[0])).reshape(blocks, k) * sketch.signs.astype(vector.dtype)
    index = (jnp.arange(k)[None, :] - sketch.shifts[:, None]) % k
    return jnp.sum(jnp.take_along_axis(signed, index, axis=1), axis=0)


def adam_moments(opt_state: Any, params: Any) -> optax.ScaleByAdamState:
    """The count and both moments of Adam inside the state of any optax rule, checked against the parameters.

    Raises:
        ValueError: there is not exactly one such state, or its leaves are not those of the parameters.
    """

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(node)]
    if len(found) != 1:
        raise ValueError(
            f"opt_state has {len(found)} states of Adam's moments, expected one; give that of optax.adam or adamw, or "
            "leave it out for plain gradients"
        )
    params = jax.tree.map(jnp.asarray, params)
    for name in ("mu", "nu"):
        moment = jax.tree.map(jnp.asarray, getattr(found[0], name))
        trees.check_same(moment, params, f"opt_state.{name}", "give the state of the run that ended at proxy_params")
    return found[0]
