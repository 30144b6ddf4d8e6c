"""Griewank and Walther's optimal checkpointing schedule, as a table."""

import math
from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Rows (load, t, store, visit), one a step: restore the state from slot `load` unless that is -1; advance it from
    x_t or, where `visit` is 1, visit step t; put it into slot `store` unless that is -1.

    descent: [*, 4] from x_0 to x_{T-1}, where nothing is visited.
    ascent: [*, 4] from the visit of T-1, whose state is at hand, to that of 0.
    """

    descent: np.ndarray
    ascent: np.ndarray

    @property
    def advances(self) -> int:
        """Forward steps in all: the optimum and the step to x_T. Visits are not counted."""
        return int(np.sum(np.concatenate(self)[:, 3] == 0)) + 1


def reach(slots: int, repetitions: int) -> int:
    """C(s + r, s): the longest horizon that s slots serve when no step is advanced over more than r times."""
    return math.comb(slots + repetitions, slots) if repetitions >= 0 else 0


def split_point(length: int, slots: int) -> int:
    """Where to put the next checkpoint in a stretch of `length` steps whose first state sits in one of `slots`.

    With r the smallest repetition number that serves the stretch, any m with C(s+r-2, s) <= m <= C(s+r-1, s) that
    leaves C(s+r-2, s-1) <= length - m <= C(s+r-1, s-1) is optimal (Griewank and Walther, 2000, Proposition 1).
    """
    repetitions = 1
    while reach(slots, repetitions) < length:
        repetitions += 1
    least_rest = reach(slots - 1, repetitions - 1)
    return max(1, min(reach(slots, repetitions - 1), length - least_rest))


def schedule(horizon: int, slots: int) -> Schedule:
    """The table for `horizon` steps and `slots` states kept, with the fewest forward steps there can be.

    Example:
        >>> schedule(10, 3).advances  # 3 slots serve C(5, 3) = 10 steps with two repetitions
        16
    """
    rows: list[tuple[int, int, int, int]] = []

    def advance(slot: int, first: int, last: int, store: int = -1) -> None:
        steps = range(first, last)
        rows.extend((slot if t == first else -1, t, store if t == last - 1 else -1, 0) for t in steps)

    def visit(slot: int, first: int, last: int) -> None:
        advance(slot, first, last)
        rows.append((slot if first == last else -1, last, -1, 1))

    # A stack instead of recursion: (first, last, slot of x_first); steps first .. last-1 are still to be visited.
    pending = [(0, horizon, 0)]
    while pending:
        first, last, slot = pending.pop()
        free = slots - 1 - slot
        if last - first == 1:
            visit(slot, first, first)
        elif free == 0:
            for t in reversed(range(first, last)):
                visit(slot, first, t)
        else:
            middle = first + split_point(last - first, free + 1)
            advance(slot, first, middle, store=slot + 1)
            pending += [(first, middle, slot), (middle, last, slot + 1)]
    table = np.asarray(rows, np.int32)
    turn = int(np.argmax(table[:, 3]))
    table[turn, 0] = -1
    return Schedule(table[:turn], table[turn:])
