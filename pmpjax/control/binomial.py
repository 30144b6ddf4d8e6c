"""Griewank and Walther's optimal checkpointing schedule, as a table."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Rows (slot, first, last, store): restore x_first from `slot`, advance it to x_last, put it into slot `store`.

    first_descent: [*, 4] rows before the first visit; each stores.
    turn: (slot, first, last, -1), the row that reaches x_{T-1}; it ends the descent.
    ascent: [*, 4] rows afterwards, the visit of step T-1 first; `store` = -1 visits step `last` instead of storing.

    `steps_to_turn` and `steps_back` are the same, one row (load, t, store, visiting) for each step: restore the state
    from slot `load` unless that is -1; advance it from x_t, or visit step t; put it into slot `store` unless -1.
    """

    first_descent: np.ndarray
    turn: tuple[int, int, int, int]
    ascent: np.ndarray

    @property
    def advances(self) -> int:
        """Forward steps in all: the optimum and the step to x_T. Visits are not counted."""
        rows = np.concatenate([self.first_descent, self.ascent])
        return int(np.sum(rows[:, 2] - rows[:, 1])) + 1

    def steps_to_turn(self) -> np.ndarray:
        """[*, 4] steps from x_0 to x_{T-1}."""
        return _steps([*self.first_descent.tolist(), self.turn], visiting=False)

    def steps_back(self) -> np.ndarray:
        """[*, 4] steps from the visit of T-1, whose state is at hand, to that of 0."""
        last = self.turn[2]
        return np.concatenate([[[-1, last, -1, 1]], _steps(self.ascent[1:].tolist())]).astype(np.int32)


def _steps(rows: Iterable[Sequence[int]], visiting: bool = True) -> np.ndarray:
    found: list[tuple[int, int, int, int]] = []
    for slot, first, last, store in rows:
        visits = visiting and store < 0
        for t in range(first, last + visits):
            found.append((slot if t == first else -1, t, store if t == last - 1 else -1, int(visits and t == last)))
    return np.asarray(found, np.int32).reshape(-1, 4)


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
