"""The run that a sweep goes back along: its instances, and the batches that the plant is trained on."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

import pmpjax as pmp
from pmpjax.data import Prepared, Rows, batch_schedule
from pmpjax.models import Decoder
from pmpjax.pds.sweep.problem import SolveConfig, Step, check_health, score_instances
from pmpjax.runs.seeds import stage_generator, stage_seed
from pmpjax.statistics import standardised
from pmpjax.train.warm_start import WarmStart


class Plan(NamedTuple):
    """steps: leaves [T, ...]. dev: the whole dev split where the steps bring no dev rows. preview: for solve.json, what
    the small sweep found whose weights the batches follow; None where they are drawn evenly. beside: that sweep's
    direction, where the worths along both runs are added."""

    steps: Step
    dev: Rows | None
    preview: dict[str, Any] | None
    beside: PyTree | None


def draw_instances(config: SolveConfig, prepared: Prepared, seed: int) -> np.ndarray:
    """Rows of the source for the proxy set: uniform, without replacement, among those long enough; ascending."""
    long = np.flatnonzero(prepared.source.lengths >= config.minimum_tokens)
    if not len(long):
        raise ValueError(
            f"no row of the source has {config.minimum_tokens} tokens, the longest has "
            f"{int(prepared.source.lengths.max())}; lower --solve.minimum-tokens"
        )
    drawn = stage_generator(seed, "solve", "instances").permutation(long)[: config.instances]
    return np.sort(drawn)


def plan(
    config: SolveConfig,
    decoder: Decoder,
    prepared: Prepared,
    proxy: WarmStart,
    instances: Rows,
    seed: int,
    mesh: Mesh | None = None,
) -> Plan:
    """The batches of a sweep, drawn from `instances` evenly or, along the selection, in proportion to gamma.

    gamma = proj_simplex((1 + rate z) / P) on P of the instances: z are their worths by a first, small sweep along
    text as it comes. This is one iteration of the outer loop on a small proxy set. Pontryagin's conditions are about
    the optimal run, whose batches are drawn as the optimal weights say. Along text as it comes the worths are those of
    a run that nobody wants: where its step does harm whatever makes it shorter is of worth, random tokens too.

    Raises:
        SweepError: when the first sweep's costate is not finite or grew too much.

    Source: PDS (arXiv 2410.07064), Algorithm 1, its outer loop and projection.
    """
    if config.along == "source":
        return Plan(*draw_steps(config, prepared, instances, seed), None, None)
    pool = stage_generator(seed, "solve", "pool").permutation(len(instances.tokens))
    pool = np.sort(pool[: config.pool_size])
    few = Rows(instances.tokens[pool], instances.lengths[pool])
    once = dataclasses.replace(config, every=None, outer_steps=1)
    steps, dev = draw_steps(once, prepared, few, seed)
    found = score_instances(once, decoder, proxy, steps, few, dev=dev, mesh=mesh)
    check_health(once, proxy.optimizer, found.sweep)
    weights = np.asarray(pool_weights(np.asarray(found.scores, np.float64), config.pool_rate), np.float64)
    drawn = drawn_in_proportion(weights, config.steps * config.batch, stage_generator(seed, "solve", "selection"))
    preview = {
        "instances": len(pool),
        "area_under_curve": float(found.sweep.value),
        "in_use": float(np.mean(weights > 0)),
        "effective_instances": float(1 / np.sum(np.square(weights))),
    }
    index = pool[drawn].reshape(config.steps, config.batch).astype(np.int32)
    beside = found.direction if config.adds else None
    return Plan(*draw_steps(config, prepared, instances, seed, index), preview, beside)


def draw_steps(
    config: SolveConfig,
    prepared: Prepared,
    instances: Rows,
    seed: int,
    index: Int[np.ndarray, "steps batch"] | None = None,
) -> tuple[Step, Rows | None]:
    """The batches of a sweep, of the instances `index` or evenly of all; the whole dev split where they bring no dev
    rows."""
    if index is None:
        order = stage_seed(seed, "solve", "order")
        index = batch_schedule(len(instances.tokens), config.steps, config.batch, seed=order)
    train = Rows(instances.tokens[index], instances.lengths[index])
    everything = prepared.dev
    if config.dev_batch is None:
        return Step(train, index, None), everything
    dev = batch_schedule(
        len(prepared.dev.tokens), config.steps, config.dev_batch, seed=stage_seed(seed, "solve", "dev order")
    )
    return Step(train, index, Rows(everything.tokens[dev], everything.lengths[dev])), None


def pool_weights(scores: Float[np.ndarray, " pool"], rate: float) -> Float[Array, " pool"]:
    """gamma = proj_simplex((1 + rate z) / P): z: scores, `standardised`. Uniform for equal ones.

    >>> np.asarray(pool_weights(np.array([1.0, 2.0, 3.0, 4.0]), 1.0)).astype(np.float64).round(2).tolist()
    [0.0, 0.11, 0.33, 0.56]
    """
    return pmp.prox.simplex(jnp.asarray((1 + rate * standardised(scores)) / len(scores)), 1.0)


def drawn_in_proportion(
    weights: Float[np.ndarray, " pool"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """`count` indices in a random order, each as often as count times its share of the weights, rounded down or up.

    >>> np.sort(drawn_in_proportion(np.array([0.5, 0.0, 0.25, 0.25]), 4, np.random.default_rng(0))).tolist()
    [0, 0, 2, 3]
    """
    ends = np.cumsum(weights) / np.sum(weights)
    places = (generator.random() + np.arange(count)) / count
    return generator.permutation(np.searchsorted(ends[:-1], places, side="right"))
