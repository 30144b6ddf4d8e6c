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


def simulate(table, horizon, slots):
    """Run a table on states that are their own number; returns (forward steps, visited steps in order)."""
    memory: list[int | None] = [None] * slots
    memory[0] = 0
    advances, visited = 0, []
    rows = [(*row, False) for row in table.first_descent] + [(*row, True) for row in table.ascent]
    for slot, first, last, store, ascending in rows:
        assert memory[slot] == first, "a slot is read that holds another state"
        assert first <= last < horizon
        advances += last - first
        if store >= 0:
            memory[store] = last
        else:
            assert ascending, "the descent visits nothing"
            visited.append(int(last))
    return advances, visited


@pytest.mark.parametrize("slots", range(1, 6))
def test_schedule_needs_as_few_steps_as_there_can_be(slots):
    for horizon in range(1, 60):
        table = schedule(horizon, slots)
        advances, visited = simulate(table, horizon, slots)
        assert advances == fewest_advances(horizon, slots)
        assert visited == list(range(horizon - 1, -1, -1))


@pytest.mark.parametrize(
    ("horizon", "slots"), [(1, 1), (1, 5), (2, 1), (7, 7), (7, 20), (64, 6), (1000, 3), (4096, 12)]
)
def test_table_visits_every_step_once_in_reverse(horizon, slots):
    table = schedule(horizon, slots)
    advances, visited = simulate(table, horizon, slots)
    assert visited == list(range(horizon - 1, -1, -1))
    # x_T lies one step past the turn, whose state is at hand for its visit.
    assert table.advances == advances + 1
    np.testing.assert_array_equal(table.ascent[0], table.turn)
    assert table.turn[2] == horizon - 1 and table.turn[3] == -1


@pytest.mark.parametrize(("horizon", "slots"), [(1, 1), (2, 1), (5, 2), (7, 20), (64, 6), (200, 3)])
def test_the_rows_of_steps_do_what_the_table_says(horizon, slots):
    """Run on states that are their own number, as `Binomial` does: one step a row."""
    table = schedule(horizon, slots)
    kept, x, advances, visited = {0: 0}, 0, 0, []
    for load, t, store, visiting in [*table.steps_to_turn(), *table.steps_back()]:
        x = kept[load] if load >= 0 else x
        assert x == t
        if visiting:
            visited.append(int(t))
        else:
            x, advances = x + 1, advances + 1
        if store >= 0:
            kept[int(store)] = x
        assert len(kept) <= slots
    assert visited == list(range(horizon - 1, -1, -1)) and table.advances == advances + 1


def test_with_as_many_slots_as_steps_nothing_is_recomputed():
    table = schedule(9, 9)
    assert simulate(table, 9, 9)[0] == 8
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
        times = np.zeros(horizon, int)
        table = schedule(horizon, slots)
        for _, first, last, _ in [*table.first_descent, *table.ascent]:
            times[first:last] += 1
        return int(times.max())

    horizon = reach(slots, repetitions)
    assert most(horizon) == repetitions
    assert most(horizon + 1) == repetitions + 1


def test_split_point_leaves_both_parts_non_empty():
    for length, slots in ((n, s) for n in range(2, 200) for s in range(2, 9)):
        assert 1 <= split_point(length, slots) < length


def test_four_thousand_steps_with_twelve_slots():
    assert schedule(4096, 12).advances <= 5 * 4096
