"""The instances of the proxy set, and the batches of a trajectory."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pmpjax.data import Prepared, Rows, batch_schedule
from pmpjax.pds.sweep.problem import SolveConfig, Step
from pmpjax.runs.seeds import stage_generator, stage_seed


class Batches(NamedTuple):
    """steps: leaves [T, ...]. dev: the whole dev split where the steps bring no dev rows, else None."""

    steps: Step
    dev: Rows | None


def draw_instances(config: SolveConfig, prepared: Prepared, seed: int) -> Int[np.ndarray, " instances"]:
    """Rows of the source for the proxy set: uniform, without replacement, among those long enough; ascending."""
    long = np.flatnonzero(prepared.source.lengths >= config.minimum_tokens)
    if not len(long):
        raise ValueError(
            f"no row of the source has {config.minimum_tokens} tokens, the longest has "
            f"{int(prepared.source.lengths.max())}; lower --solve.minimum-tokens"
        )
    drawn = stage_generator(seed, "solve", "instances").permutation(long)[: config.instances]
    return np.sort(drawn)


def draw_members(instances: int | None, size: int, seed: int) -> Int[np.ndarray, " members"]:
    """So many of a proxy set of `size`, or all; ascending. More are the same ones and others.

    >>> few, more = draw_members(3, 10, seed=0), draw_members(6, 10, seed=0)
    >>> set(few) < set(more), draw_members(None, 4, seed=0).tolist()
    (True, [0, 1, 2, 3])
    """
    return np.sort(stage_generator(seed, "solve", "pool").permutation(size)[:instances])


def draw_batches(
    config: SolveConfig,
    prepared: Prepared,
    instances: Rows,
    seed: int,
    index: Int[np.ndarray, "steps batch"] | None = None,
) -> Batches:
    """The batches of a trajectory: of the instances `index`, or evenly of all; and the rows of the desired loss."""
    if index is None:
        order = stage_seed(seed, "solve", "order")
        index = batch_schedule(len(instances.tokens), config.steps, config.batch, seed=order)
    train = Rows(instances.tokens[index], instances.lengths[index])
    everything = prepared.dev
    if config.dev_batch is None:
        return Batches(Step(train, index, None), everything)
    dev = batch_schedule(
        len(prepared.dev.tokens), config.steps, config.dev_batch, seed=stage_seed(seed, "solve", "dev order")
    )
    return Batches(Step(train, index, Rows(everything.tokens[dev], everything.lengths[dev])), None)


def draw_by_weight(
    weights: Float[np.ndarray, " members"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """`count` indices in a random order, each as often as count times its share of the weights, rounded down or up.

    >>> np.sort(draw_by_weight(np.array([0.5, 0.0, 0.25, 0.25]), 4, np.random.default_rng(0))).tolist()
    [0, 0, 2, 3]
    """
    ends = np.cumsum(weights) / np.sum(weights)
    places = (generator.random() + np.arange(count)) / count
    return generator.permutation(np.searchsorted(ends[:-1], places, side="right"))
