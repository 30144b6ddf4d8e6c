"""Gaussian mixtures by expectation and maximisation, many random starts at once."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Covariance = Literal["full", "tied", "diagonal", "spherical"]


class Mixture(NamedTuple):
    """p(x) = sum_k pi_k N(x | mu_k, Sigma_k), with W_k W_k^T = Sigma_k^{-1}.

    Fields:
        weights: pi [K].
        means: mu [K, D].
        whitening: W [K, D, D], upper triangular, so that (x - mu_k) W_k has unit covariance.
    """

    weights: Float[Array, "*s k"]
    means: Float[Array, "*s k d"]
    whitening: Float[Array, "*s k d d"]


class Fit(NamedTuple):
    """What expectation and maximisation end with.

    Fields:
        mixture: after the last maximisation.
        path: [steps] mean log-likelihood before each maximisation; NaN behind the last.
        steps: taken.
        converged: whether the last step changed the log-likelihood by less than the tolerance.
    """

    mixture: Mixture
    path: Float[Array, "*s t"]
    steps: Array
    converged: Array


def log_densities(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """log N(x_n | mu_k, Sigma_k) = -(D log 2 pi + |(x_n - mu_k) W_k|^2) / 2 + sum_d log W_kdd."""
    clusters, size = mixture.means.shape
    side_by_side = mixture.whitening.transpose(1, 0, 2).reshape(size, clusters * size)  # one product for all clusters
    white = jnp.matmul(x, side_by_side, precision="highest").reshape(-1, clusters, size)
    white = white - jnp.einsum("kd,kde->ke", mixture.means, mixture.whitening, precision="highest")[None]
    diagonal = jnp.diagonal(mixture.whitening, axis1=-2, axis2=-1)
    constant = jnp.sum(jnp.log(diagonal), axis=-1) - 0.5 * size * jnp.log(2 * jnp.pi)
    return constant[None] - 0.5 * jnp.sum(white**2, axis=-1)


def maximise(
    x: Float[Array, "n d"], responsibilities: Float[Array, "n k"], covariance: Covariance, floor: float | Array
) -> Mixture:
    """The mixture of greatest likelihood given responsibilities r_nk, `floor` added to each variance.

    pi_k = sum_n r_nk / N, mu_k = sum_n r_nk x_n / sum_n r_nk, Sigma_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T / sum_n
    r_nk ("full"); the mean of these over all observations ("tied"); their diagonals; the means of the diagonals
    ("spherical").
    """
    return _from_moments(_centred(x), responsibilities, covariance, floor)


class _Centred(NamedTuple):
    """Observations less their mean, and the products of each two of their coordinates, made once for all steps."""

    mean: Array
    x: Array
    products: Array


def _centred(x: Array) -> _Centred:
    mean = jnp.mean(x, axis=0)
    centred = x - mean[None]
    rows, columns = np.triu_indices(x.shape[1])
    return _Centred(mean, centred, centred[:, rows] * centred[:, columns])


def _from_moments(data: _Centred, responsibilities: Array, covariance: Covariance, floor: float | Array) -> Mixture:
    """`maximise` by sum_n r_nk x_n x_n^T - N_k mu_k mu_k^T: one product for all clusters, five times as fast as one for
    each. The error of the difference is eps times the square of the spread of x: 1e-13 for log-probabilities above
    log 1e-12 in double precision, far below the floor.
    """
    size = data.x.shape[1]
    counts = jnp.sum(responsibilities, axis=0) + 10 * jnp.finfo(data.x.dtype).eps
    means = jnp.matmul(responsibilities.T, data.x, precision="highest") / counts[:, None]
    packed = jnp.matmul(responsibilities.T, data.products, precision="highest")
    rows, columns = np.triu_indices(size)
    moments = jnp.zeros((len(counts), size, size), data.x.dtype)
    moments = moments.at[:, rows, columns].set(packed).at[:, columns, rows].set(packed)
    scatters = moments - counts[:, None, None] * means[:, :, None] * means[:, None, :]
    covariances = scatters / counts[:, None, None]
    if covariance == "tied":
        covariances = jnp.broadcast_to(jnp.sum(scatters, axis=0)[None] / jnp.sum(counts), scatters.shape)
    if covariance in ("diagonal", "spherical"):
        variances = jnp.maximum(jnp.diagonal(covariances, axis1=-2, axis2=-1), 0) + floor
        if covariance == "spherical":
            variances = jnp.broadcast_to(jnp.mean(variances, axis=-1, keepdims=True), variances.shape)
        whitening = variances[:, :, None] ** -0.5 * jnp.eye(size, dtype=data.x.dtype)[None]
    else:
        lower = jnp.linalg.cholesky(covariances + floor * jnp.eye(size, dtype=data.x.dtype)[None])
        unit = jnp.eye(size, dtype=data.x.dtype)
        inverse = jax.vmap(lambda one: jax.scipy.linalg.solve_triangular(one, unit, lower=True))
        whitening = jnp.swapaxes(inverse(lower), -1, -2)
    return Mixture(counts / jnp.sum(counts), means + data.mean[None], whitening)


@functools.partial(jax.jit, static_argnames=("covariance", "steps"))
def fit_mixture(
    x: Float[Array, "n d"],
    responsibilities: Float[Array, "n k"],
    covariance: Covariance = "full",
    steps: int = 100,
    tolerance: float | Array = 1e-3,
    floor: float | Array = 1e-6,
) -> Fit:
    """r_nk <- pi_k N(x_n | k) / sum_j pi_j N(x_n | j), then `maximise`, until the mean log-likelihood settles.

    Args:
        responsibilities: of the start, rows that sum to 1.
        steps: at most.
        tolerance: change of the mean log-likelihood, in nats per observation, below which it ends.

    A covariance that is singular beyond `floor` gives NaN in `path`: such a start is of no use.

    Raises ValueError: observations that are not float64; `pmpjax.runs.precision.double_precision` gives them.
    """
    if x.dtype != jnp.float64:
        raise ValueError(f"x is {x.dtype}, expected float64; make and fit it under double_precision()")
    data = _centred(x)

    class State(NamedTuple):
        mixture: Mixture
        path: Array
        step: Array
        converged: Array

    def one(state: State) -> State:
        joint = log_densities(state.mixture, x) + jnp.log(state.mixture.weights)[None]
        total = jax.nn.logsumexp(joint, axis=1)
        bound = jnp.mean(total)
        before = jnp.where(state.step > 0, state.path[state.step - 1], -jnp.inf)
        mixture = _from_moments(data, jnp.exp(joint - total[:, None]), covariance, floor)
        settled = jnp.abs(bound - before) < tolerance
        return State(mixture, state.path.at[state.step].set(bound), state.step + 1, settled)

    def unsettled(state: State) -> Array:
        fine = (state.step == 0) | jnp.isfinite(state.path[state.step - 1])
        return (state.step < steps) & ~state.converged & fine

    first = _from_moments(data, responsibilities, covariance, floor)
    state = State(first, jnp.full(steps, jnp.nan, x.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    state = jax.lax.while_loop(unsettled, one, state)
    return Fit(state.mixture, state.path, state.step, state.converged)


def k_means(key: Array, x: Float[Array, "n d"], clusters: int, steps: int = 20) -> Float[Array, "n k"]:
    """One-hot clusters: seeds drawn with probability proportional to the squared distance to the nearest earlier one
    (k-means++), then `steps` assignments and means; a cluster that loses all keeps its place.
    """
    keys = jax.random.split(key, clusters)

    def distances(means: Array) -> Array:
        squares = jnp.sum(x**2, 1)[:, None] + jnp.sum(means**2, 1)[None]
        return squares - 2 * jnp.matmul(x, means.T, precision="highest")

    def seed(carry: tuple[Array, Array], step: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        means, nearest = carry
        key, index = step
        chosen = x[jax.random.categorical(key, jnp.log(jnp.maximum(nearest, 1e-30)))]
        nearest = jnp.minimum(nearest, jnp.sum((x - chosen[None]) ** 2, axis=1))
        return (means.at[index].set(chosen), nearest), None

    start = (jnp.zeros((clusters, x.shape[1]), x.dtype), jnp.ones(x.shape[0], x.dtype) * 1e30)
    (means, _), _ = jax.lax.scan(seed, start, (keys, jnp.arange(clusters)))

    def move(means: Array, _: None) -> tuple[Array, None]:
        chosen = jax.nn.one_hot(jnp.argmin(distances(means), axis=1), clusters, dtype=x.dtype)
        counts = jnp.sum(chosen, axis=0)[:, None]
        moved = jnp.matmul(chosen.T, x, precision="highest") / jnp.maximum(counts, 1)
        return jnp.where(counts > 0, moved, means), None

    means, _ = jax.lax.scan(move, means, None, length=steps)
    return jax.nn.one_hot(jnp.argmin(distances(means), axis=1), clusters, dtype=x.dtype)


@functools.partial(jax.jit, static_argnames=("clusters", "starts", "covariance", "steps", "chunk"))
def fit_from_many_starts(
    key: Array,
    x: Float[Array, "n d"],
    clusters: int,
    starts: int = 100,
    covariance: Covariance = "full",
    *,
    steps: int = 100,
    tolerance: float | Array = 1e-3,
    floor: float | Array = 1e-6,
    chunk: int = 1,
) -> Fit:
    """`fit_mixture` from `starts` runs of k-means with different keys: every field with a leading axis of starts.

    Memory is that of `chunk` starts. More of them at once are slower on a CPU: a chunk goes on until its last settles.
    """

    def one(key: Array) -> Fit:
        return fit_mixture(x, k_means(key, x, clusters), covariance, steps, tolerance, floor)

    return jax.lax.map(one, jax.random.split(key, starts), batch_size=chunk)
