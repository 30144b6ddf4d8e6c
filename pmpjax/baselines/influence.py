"""IF-Score: the influence of a document on the target's loss, by the inverse Hessian of the training loss."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pmpjax.baselines.instances import (
    Scorer,
    check_positive,
    dev_rows,
    document_scores,
    row_values,
    source_rows,
    with_labels,
)
from pmpjax.control import trees
from pmpjax.data import Prepared, Rows
from pmpjax.models import Decoder, example_losses
from pmpjax.train.heldout import set_loss


class Inverse(NamedTuple):
    """What `conjugate_gradient` leaves.

    Fields:
        solution: x, like b.
        residual: |b - A x| / |b|.
        iterations: products with A behind x.
        convex: whether every direction tried had positive curvature; where not, the search ended before that one.
    """

    solution: Any
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    convex: Array


def influence(
    decoder: Decoder,
    proxy_params: Any,
    *,
    damping: float = 1.0,
    iterations: int = 20,
    tolerance: float = 1e-3,
    hessian_rows: int = 256,
    chunk: int = 32,
) -> Scorer:
    """s_d = <q, grad l_d(theta)> with (H + damping) q = grad L_dev(theta), H the Hessian of the training loss.

    Up-weighting document d by epsilon changes the target's loss by -epsilon s_d, to first order at a minimum: high is
    good. All losses are in nats per label: l_d of the document, L_dev of the whole dev split, and the training loss
    behind H of `hessian_rows` random rows of the source, which the key draws. q comes from conjugate gradients on
    Hessian-vector products (a jvp of the gradient), <q, grad l> of a chunk of rows from one jvp of their losses; no
    Hessian and no gradient of a single document is formed. Each row is predicted from itself alone, and the score of
    a document is the mean of its rows' weighted by their labels, which is exactly that of its mean loss.

    A proxy is not at a minimum, H has negative eigenvalues: where the search meets a direction that `damping` does not
    lift it ends and keeps what it has, as trust-region methods do, with a warning.

    Args:
        proxy_params: theta, as `decoder` takes it.
        damping: added to H's diagonal, in nats per label and squared parameter. A proxy of 0.6M parameters after 160
            steps needed more than 0.3.
        iterations: at most.
        tolerance: of the residual, relative to the gradient.
        chunk: rows evaluated at once.

    Raises:
        ValueError: a setting is not positive; when called: dev split or source have no label, a score is not finite.

    Warns:
        UserWarning: when called: H + damping is not positive along a direction of the search.

    Source: influence functions (arXiv 1703.04730), equation 2; IF-Score in PDS (arXiv 2410.07064), section 3.1.
    Truncation: Steihaug, SIAM J. Numer. Anal. 20 (1983), 626-637.
    """
    check_positive(
        "influence",
        damping=damping,
        iterations=iterations,
        tolerance=tolerance,
        hessian_rows=hessian_rows,
        chunk=chunk,
    )
    losses = example_losses(decoder)

    @jax.jit
    def inverse(params: Any, dev: Rows, train: Rows) -> Inverse:
        def product(vector: Any) -> Any:
            _, curvature = jax.jvp(jax.grad(set_loss(decoder, train, chunk)), (params,), (vector,))
            return jax.tree.map(lambda h, v: h + damping * v, curvature, vector)

        desired = jax.grad(set_loss(decoder, dev, chunk))(params)
        return conjugate_gradient(product, desired, iterations=iterations, tolerance=tolerance)

    @jax.jit
    def directional_derivative(operands: tuple[Any, Any], rows: Rows) -> Array:
        params, direction = operands
        return jax.jvp(lambda p: losses(p, rows), (params,), (direction,))[1]

    def score(prepared: Prepared, key: Array) -> Array:
        params = jax.tree.map(jnp.asarray, proxy_params)
        rows = with_labels(source_rows(prepared), "the source")
        drawn = np.asarray(jax.random.permutation(key, len(rows.lengths)))[:hessian_rows]
        sample = Rows(rows.tokens[drawn], rows.lengths[drawn])
        found = inverse(params, dev_rows(prepared), sample)
        if not found.convex:
            warnings.warn(
                f"influence: the Hessian plus damping {damping:g} is not positive along step {int(found.iterations)} "
                f"of the search, which ended there with residual {float(found.residual):.2g}; raise damping",
                UserWarning,
                stacklevel=2,
            )
        values = row_values(directional_derivative, (params, found.solution), source_rows(prepared), chunk)
        return document_scores(prepared, values, "influence", "raise damping")

    return score


def influence_flops(
    forward: Callable[[int], float | int], *, rows: int, dev_rows: int, hessian_rows: int, iterations: int
) -> float | int:
    """A gradient of the dev split, a jvp of the gradient an iteration, a jvp of the loss for each row of the source.

    `forward(rows)`: FLOPs of a forward pass over so many rows; these cost it 3, 9 and 3 times.

    >>> influence_flops(lambda rows: rows, rows=1000, dev_rows=100, hessian_rows=10, iterations=20)
    5100
    """
    return 3 * forward(dev_rows) + 9 * iterations * forward(hessian_rows) + 3 * forward(rows)


def conjugate_gradient(product: Callable[[Any], Any], b: Any, *, iterations: int, tolerance: float) -> Inverse:
    """x with A x = b for a symmetric A given by `product`, in the Krylov space of b; b may be any pytree.

    Ends when |b - A x| <= tolerance |b|, after `iterations` products, or before the first direction d with
    <d, A d> <= 0; if that is b itself, x = b.

    >>> matrix = jnp.array([[2.0, 1.0], [1.0, 3.0]])
    >>> found = conjugate_gradient(lambda x: matrix @ x, jnp.array([3.0, 4.0]), iterations=5, tolerance=1e-6)
    >>> found.solution.round(4).tolist(), int(found.iterations), bool(found.convex)
    ([1.0, 1.0], 2, True)
    """
    # jax.scipy's cg goes on through negative curvature, where its answer is no better than noise, without a warning.
    size = trees.inner(b, b)

    def unfinished(state: tuple[Any, Any, Any, Array, Array, Array]) -> Array:
        _, _, _, rest, count, convex = state
        return (rest > tolerance**2 * size) & (count < iterations) & convex

    def step(state: tuple[Any, Any, Any, Array, Array, Array]) -> tuple[Any, Any, Any, Array, Array, Array]:
        x, residual, direction, rest, count, _ = state
        image = product(direction)
        curvature = trees.inner(direction, image)
        convex = curvature > 0
        length = jnp.where(convex, rest / jnp.where(convex, curvature, 1.0), 0.0)
        x = jax.tree.map(lambda a, d: a + length * d, x, direction)
        residual = jax.tree.map(lambda a, i: a - length * i, residual, image)
        following = trees.inner(residual, residual)
        direction = jax.tree.map(lambda r, d: r + following / rest * d, residual, direction)
        return x, residual, direction, following, count + convex, convex

    zero = jax.tree.map(jnp.zeros_like, b)
    start = (zero, b, b, size, jnp.zeros((), jnp.int32), jnp.array(True))
    x, _, _, rest, count, convex = jax.lax.while_loop(unfinished, step, start)
    none = ~convex & (count == 0)
    solution = jax.tree.map(lambda a, g: jnp.where(none, g, a), x, b)
    return Inverse(solution, jnp.sqrt(rest / jnp.where(size > 0, size, 1.0)), count, convex)
