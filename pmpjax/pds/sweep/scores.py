"""The PDS score of every instance, observed during one costate sweep through the proxy's run."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig
from pmpjax.pds.sweep.batches import Batches
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, Step, initial_state, proxy_problem
from pmpjax.statistics import standardised
from pmpjax.train import OptimizerConfig
from pmpjax.train.mesh import place, sharded_losses


class Solved(NamedTuple):
    """What a sweep at some weights gives.

    weights: gamma, [N], on the simplex. value: J, the area under the desired loss. health: of the costate.
    scores: [M] of each instance, an estimate of -dJ/dgamma from all instances.
    batch_scores: [N] -dJ/dgamma of the run's own batches, exact.
    terms: [K, M], the scores at each step that was evaluated; scores = k sum over K.
    direction: d_0, like the parameters, where scores along several trajectories are added (`SolveConfig.adds`).
    extra_scores: [E, M], the first term along each extra direction.
    """

    weights: Float[Array, " weights"]
    value: Float[Array, ""]
    health: pmp.Health
    scores: Float[Array, " instances"]
    batch_scores: Float[Array, " weights"]
    terms: Float[Array, "evaluated instances"]
    direction: PyTree = None
    extra_scores: Float[Array, "extra instances"] | None = None


def score_instances(
    config: SolveConfig,
    proxy: Proxy,
    batches: Batches,
    instances: Rows,
    *,
    weights: Float[Array, " weights"] | None = None,
    extra_directions: Sequence[PyTree] = (),
) -> Solved:
    """s_z = k sum_{t in 0, k, 2k, ...} <d_t, grad l_z(theta_t)>, [M]: high is good.

    d_t is minus the costate of x_{t+1} pulled back through the update to the gradient: eta lambda_{t+1} for SGD, whose
    scores divided by eta are the paper's. With k = 1 they are minus the derivative of the area under the desired loss
    in the weight of an instance z that is added to every step with weight zero; a larger `every` k estimates that sum
    from each k-th term. Over the draw of the batches its expectation is that of `batch_scores`, minus the derivative in
    the weights of the run's own batches, with less variance.

    Args:
        instances: M rows; those that have weights are the first N.
        weights: gamma, [N], by the index of the batches; uniform over all instances when None.
        extra_directions: of other trajectories at theta_0 (`Solved.direction`), along which the instances are scored
            at step 0 as well.

    Source: PDS (arXiv 2410.07064), Pontryagin conditions and the score q_n.
    """
    weights = pmp.uniform(len(instances.tokens)) if weights is None else weights
    start, mesh = proxy.start, proxy.mesh
    arguments = jax.tree.map(jnp.asarray, (batches.steps, instances, batches.dev, tuple(extra_directions)))
    state = place(initial_state(config.inner_optimizer, start), mesh)
    found = sweep_function(config, proxy.decoder.config, start.optimizer, mesh)(state, weights, *arguments)
    seen, along = found.seen, found.seen["scores"]  # [K, M] or, with E extra directions, [K, 1 + E, M]
    terms, extra = (along[:, 0], along[0, 1:]) if extra_directions else (along, None)
    direction = jax.tree.map(lambda leaf: leaf[0], seen.get("direction"))
    scores = config.period * terms.sum(axis=0)
    return Solved(weights, found.value, found.health, scores, -seen["gradient"], terms, direction, extra)


@functools.lru_cache(maxsize=2)
def sweep_function(
    config: SolveConfig, model: DecoderConfig, optimizer: OptimizerConfig, mesh: Mesh | None = None
) -> Callable[..., pmp.Sweep]:
    """The jitted sweep, the same one for the same arguments, so that it is compiled once.

    (state x_0, weights [N], steps [T, ...], instances [M, L], dev rows or None, a tuple of E extra directions) ->
    `Sweep` whose `seen` has scores [ceil(T / every), M], or [ceil(T / every), 1 + E, M] with extra directions, and
    gradient [N], and direction [1, ...] where `config.adds`.
    """
    decoder = Decoder(model)

    def sweep(
        state: pmp.TrainState, weights: Array, steps: Step, instances: Rows, dev: Rows | None, extra: tuple[PyTree, ...]
    ) -> pmp.Sweep:
        problem = proxy_problem(config, decoder, optimizer, dev, mesh)
        scores = obs.contributions_of(
            sharded_losses(decoder, mesh), instances, chunk=config.chunk, extra_directions=extra
        )
        observe: dict[str, obs.Observable] = {
            "scores": obs.every(config.period, scores),
            "gradient": obs.control_gradient,
        }
        if config.adds:
            observe["direction"] = obs.every(config.steps, lambda point: point.gradient_cotangent)
        return pmp.costate(problem, state, weights, steps, adjoint=pmp.Checkpointed(), observe=observe)

    return jax.jit(sweep)


def instance_scores(solved: Solved) -> Float[np.ndarray, " instances"]:
    """z_1 + ... + z_E + z: the `standardised` scores along all trajectories, or the scores alone where E = 0.

    gamma_2 = prox(gamma_1 + r z) with gamma_1 = prox(1/N + r z_1) ranks by this sum what neither projection cuts off;
    it is the lazy form of the outer loop (dual averaging). z alone undervalues what its run is full of: at the optimum
    all used instances have the same score, however often they are used.

    Source: PDS (arXiv 2410.07064), Algorithm 1; Xiao, Dual averaging methods (2010), section 2.

    >>> rows = jnp.array([[3.0, 2.0, 1.0], [10.0, 20.0, 30.0]])
    >>> instance_scores(Solved(None, None, None, rows[1], None, None, extra_scores=rows[:1])).tolist()
    [0.0, 0.0, 0.0]
    """
    scores = np.asarray(solved.scores, np.float64)
    if solved.extra_scores is None:
        return scores
    along = [*np.asarray(solved.extra_scores, np.float64), scores]
    return np.sum([standardised(each) for each in along], axis=0)
