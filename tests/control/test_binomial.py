"""Griewank and Walther's schedule against a dynamic programme and a simulation of its table."""

import functools
import math

import numpy as np
import pytest

from pmpjax.control.binomial import reach, schedule, split_point


@functools.cache
def fewest_advances(steps, slots):
    """Forward steps that reversing `steps` steps needs at least, x_0 in one of `slots`; by trying every first split."""
    if steps == 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest_advances(m, slots) + fewest_advances(steps - m, slots - 1) for m in range(1, steps))


def simulate(table, slots):
    """Run a table on states that are their own number; returns (steps advanced, steps visited), each in order."""
    kept, x = {0: 0}, 0
    advanced, visited = [], []
    for load, t, store, visit in np.concatenate([table.descent, table.ascent]).tolist():
        x = kept[load] if load >= 0 else x
        assert x == t, "a step is taken from another state than its own"
        if visit:
            visited.append(t)
        else:
            advanced.append(t)
            x += 1
        if store >= 0:
            kept[store] = x
        assert len(kept) <= slots and max(kept) < slots
    return advanced, visited


@pytest.mark.parametrize("slots", range(1, 6))
def test_schedule_needs_as_few_steps_as_there_can_be(slots):
    for horizon in range(1, 60):
        table = schedule(horizon, slots)
        advanced, visited = simulate(table, slots)
        assert len(advanced) == fewest_advances(horizon, slots)
        assert visited == list(range(horizon - 1, -1, -1))


@pytest.mark.parametrize(
    ("horizon", "slots"), [(1, 1), (1, 5), (2, 1), (7, 7), (7, 20), (64, 6), (1000, 3), (4096, 12)]
)
def test_table_visits_every_step_once_in_reverse(horizon, slots):
    table = schedule(horizon, slots)
    advanced, visited = simulate(table, slots)
    assert visited == list(range(horizon - 1, -1, -1))
    # x_T lies one step past the first visit, whose state is at hand.
    assert table.advances == len(advanced) + 1
    assert table.ascent[0].tolist() == [-1, horizon - 1, -1, 1] and not np.any(table.descent[:, 3])


def test_with_as_many_slots_as_steps_nothing_is_recomputed():
    table = schedule(9, 9)
    assert simulate(table, 9)[0] == list(range(8))
    assert table.advances == 9


def test_reach_is_the_binomial_coefficient():
    for slots, repetitions in np.ndindex(7, 7):
        assert reach(slots, repetitions) == math.factorial(slots + repetitions) // (
            math.factorial(slots) * math.factorial(repetitions)
        )
    assert reach(3, -1) == 0


@pytest.mark.parametrize(("slots", "repetitions"), [(1, 4), (2, 3), (3, 2), (4, 3)])
def test_the_reach_is_the_longest_horizon_with_so_many_repetitions(slots, repetitions):
    """No step is advanced over more than r times up to the reach, one is from there on."""

    def most(horizon):
        return int(np.bincount(simulate(schedule(horizon, slots), slots)[0]).max())

    horizon = reach(slots, repetitions)
    assert most(horizon) == repetitions
    assert most(horizon + 1) == repetitions + 1


def test_split_point_leaves_both_parts_non_empty():
    for length, slots in ((n, s) for n in range(2, 200) for s in range(2, 9)):
        assert 1 <= split_point(length, slots) < length


def test_four_thousand_steps_with_twelve_slots():
    assert schedule(4096, 12).advances <= 5 * 4096
