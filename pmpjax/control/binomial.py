"""Griewank and Walther's optimal checkpointing schedule, as a table."""

import math
from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Rows (slot, first, last, store): restore x_first from `slot`, advance it to x_last, put it into slot `store`.

    first_descent: [*, 4] rows before the first visit; each stores.
    turn: (slot, first, last, -1), the row that reaches x_{T-1}; it ends the descent.
    ascent: [*, 4] rows afterwards, the visit of step T-1 first; `store` = -1 visits step `last` instead of storing.
    """

    first_descent: np.ndarray
    turn: tuple[int, int, int, int]
    ascent: np.ndarray

    @property
    def advances(self) -> int:
        """Forward steps in all: the optimum, the turn (run once to find x_T, once to be visited) and the step to x_T.

        Visits are not counted.
        """
        rows = np.concatenate([self.first_descent, self.ascent])
        return int(np.sum(rows[:, 2] - rows[:, 1])) + self.turn[2] - self.turn[1] + 1


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
        18
    """
    rows: list[tuple[int, int, int, int]] = []
    # A stack instead of recursion: (first, last, slot of x_first); steps first .. last-1 are still to be visited.
    pending = [(0, horizon, 0)]
    while pending:
        first, last, slot = pending.pop()
        free = slots - 1 - slot
        if last - first == 1:
            rows.append((slot, first, first, -1))
        elif free == 0:
            rows.extend((slot, first, t, -1) for t in range(last - 1, first - 1, -1))
        else:
            middle = first + split_point(last - first, free + 1)
            rows.append((slot, first, middle, slot + 1))
            pending.append((first, middle, slot))
            pending.append((middle, last, slot + 1))
    table = np.asarray(rows, np.int32).reshape(-1, 4)
    turn = int(np.argmax(table[:, 3] < 0))
    slot, first, last, store = (int(n) for n in table[turn])
    return Schedule(table[:turn], (slot, first, last, store), table[turn:])
