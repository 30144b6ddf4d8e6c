"""How the states of the forward run are kept for the reverse sweep.

Every adjoint gives the same numbers to rounding; they trade memory for recomputation. In gradients of the training
loss a step, for SGD with a dev batch as large as the train batch, and in states kept:

| adjoint | gradients a step | kept |
|---|---|---|
| `Checkpointed()`, the default | 6 | 2 sqrt(T) states |
| `StoreAll()` | 5 | T states |
| `Linearized()` | 4 | T linearised steps: for plants that are small beside memory |
| `Binomial(slots)` | 4 + forward steps a step (4.4 at T = 4,096 and 12 slots) | `slots` states, whatever T |
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pmpjax.control import trees
from pmpjax.control.binomial import schedule
from pmpjax.control.dynamics import Transition
from pmpjax.control.tracing import Residuals

Visit = Callable[[PyTree, Array, PyTree, PyTree, Callable[[PyTree], Any]], PyTree]


class AbstractAdjoint(abc.ABC):
    """Runs a transition forward and visits its steps in reverse."""

    @abc.abstractmethod
    def reverse(self, transition: Transition, state: PyTree, start: Callable[[PyTree], PyTree], visit: Visit) -> PyTree:
        """carry = start(x_T), then carry = visit(carry, t, x_t, x_{t+1}, pull_t) for t = T-1 .. 0; the last carry.

        pull_t maps lambda_{t+1} to the `Pulled` covector of step t.
        """


@dataclasses.dataclass(frozen=True)
class StoreAll(AbstractAdjoint):
    """Keep every state x_t; linearise each step again on the way back."""

    def reverse(self, transition: Transition, state: PyTree, start: Callable[[PyTree], PyTree], visit: Visit) -> PyTree:
        steps = jnp.arange(transition.horizon, dtype=jnp.int32)
        final, states = jax.lax.scan(lambda x, t: (transition.advance(t, x), x), state, steps)

        def back(carry: PyTree, row: tuple[Array, PyTree]) -> tuple[PyTree, None]:
            t, x = row
            return visit(carry, t, x, *transition.linearize(t, x)), None

        carry, _ = jax.lax.scan(back, start(final), (steps, states), reverse=True)
        return carry


@dataclasses.dataclass(frozen=True)
class Linearized(AbstractAdjoint):
    """Keep each step's linearisation from the forward run, so that nothing is computed twice.

    What does not change from step to step (a full batch) or is at hand already (the step's own batch and weights) is
    not stored.
    """

    def reverse(self, transition: Transition, state: PyTree, start: Callable[[PyTree], PyTree], visit: Visit) -> PyTree:
        steps = jnp.arange(transition.horizon, dtype=jnp.int32)
        residuals = Residuals(
            lambda x, u, w: transition.linearize_at(x, u, w)[1],
            (state, transition.control(0), transition.input(0)),
            (True, transition.control_varies, transition.input_varies),
        )

        def forward(x: PyTree, t: Array) -> tuple[PyTree, tuple[PyTree, list[Any]]]:
            following, pull = transition.linearize(t, x)
            return following, (x, residuals.pack(pull))

        final, (states, kept) = jax.lax.scan(forward, state, steps)

        def back(carry: tuple[PyTree, PyTree], row: tuple[Array, PyTree, list[Any]]) -> tuple[PyTree, None]:
            inner, following = carry
            t, x, leaves = row
            pull = residuals.unpack(leaves, (x, transition.control(t), transition.input(t)))
            return (visit(inner, t, x, following, pull), x), None

        (carry, _), _ = jax.lax.scan(back, (start(final), final), (steps, states, kept), reverse=True)
        return carry


@dataclasses.dataclass(frozen=True)
class Checkpointed(AbstractAdjoint):
    """Keep the first state of each segment; recompute a segment's states when the sweep reaches it.

    segment: steps in a segment; None is ceil(sqrt(T)), which keeps the fewest states.
    """

    segment: int | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise ValueError(f"Checkpointed(segment={self.segment}): expected at least 1")

    def segments(self, horizon: int) -> int:
        """Into how many a run of `horizon` steps is cut; the last one may be shorter.

        >>> Checkpointed().segments(100), Checkpointed().segments(32), Checkpointed(segment=5).segments(32)
        (10, 6, 7)
        """
        return -(-horizon // self._length(horizon))

    def _length(self, horizon: int) -> int:
        return min(self.segment or math.isqrt(horizon - 1) + 1, horizon)

    def reverse(self, transition: Transition, state: PyTree, start: Callable[[PyTree], PyTree], visit: Visit) -> PyTree:
        horizon = transition.horizon
        length, segments = self._length(horizon), self.segments(horizon)

        def size(index: Array) -> int | Array:
            # A loop with a bound known while tracing has a known trip count, which compilers use.
            return length if horizon % length == 0 else jnp.minimum(length, horizon - index * length)

        def forward(x: PyTree, index: Array) -> tuple[PyTree, PyTree]:
            first = index * length
            return jax.lax.fori_loop(0, size(index), lambda i, y: transition.advance(first + i, y), x), x

        final, firsts = jax.lax.scan(forward, state, jnp.arange(segments, dtype=jnp.int32))

        def back(carry: PyTree, row: tuple[Array, PyTree]) -> tuple[PyTree, None]:
            index, x = row
            first, count = index * length, size(index)

            def advance(i: Array, loop: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                y, states = loop
                following = transition.advance(first + i, y)
                return following, trees.put(states, following, i + 1)

            _, states = jax.lax.fori_loop(0, count - 1, advance, (x, trees.rows_like(x, length)))

            def reverse_step(i: Array, inner: PyTree) -> PyTree:
                t = jnp.asarray(first + count - 1 - i, jnp.int32)
                y = trees.take(states, t - first)
                return visit(inner, t, y, *transition.linearize(t, y))

            return jax.lax.fori_loop(0, count, reverse_step, carry), None

        carry, _ = jax.lax.scan(back, start(final), (jnp.arange(segments, dtype=jnp.int32), firsts), reverse=True)
        return carry


@dataclasses.dataclass(frozen=True)
class Binomial(AbstractAdjoint):
    """Keep a fixed number of states, whatever T, and recompute as few steps as that allows.

    Griewank and Walther's optimal schedule is a table made in numpy (`pmpjax.control.binomial.schedule`) that drives
    two scans, so that neither memory nor compile time grows with T.

    slots: states kept, x_0 among them. s slots and r repetitions of the forward run serve T = C(s + r, s) steps.

    Source: A. Griewank and A. Walther, Algorithm 799: Revolve, 2000.
    """

    slots: int = 12

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"Binomial(slots={self.slots}): expected at least 1")

    def reverse(self, transition: Transition, state: PyTree, start: Callable[[PyTree], PyTree], visit: Visit) -> PyTree:
        table = schedule(transition.horizon, self.slots)

        def advance(x: PyTree, first: Any, last: Any) -> PyTree:
            return jax.lax.fori_loop(first, last, transition.advance, x)

        def descend(kept: PyTree, row: Array) -> tuple[PyTree, PyTree]:
            slot, first, last, store = row
            x = advance(trees.take(kept, slot), first, last)
            return trees.put(kept, x, store), None

        kept = trees.rows_like(state, self.slots)
        kept, _ = jax.lax.scan(descend, kept, jnp.asarray(table.first_descent))
        # The first step to be visited is T - 1; x_T, where the costate begins, lies one step further.
        slot, first, last, _ = table.turn
        turning = advance(trees.take(kept, slot), first, last)
        carry = start(transition.advance(jnp.int32(transition.horizon - 1), turning))

        def ascend(loop: tuple[PyTree, PyTree], row: Array) -> tuple[tuple[PyTree, PyTree], None]:
            kept, carry = loop
            slot, first, last, store = row
            x = advance(trees.take(kept, slot), first, last)

            def reverse_step(carry: PyTree) -> PyTree:
                return visit(carry, last, x, *transition.linearize(last, x))

            visiting = store < 0
            carry = jax.lax.cond(visiting, reverse_step, lambda carry: carry, carry)
            # A visit stores nothing: it writes the row back that it read.
            kept = trees.put(kept, trees.select(visiting, trees.take(kept, slot), x), jnp.where(visiting, slot, store))
            return (kept, carry), None

        (_, carry), _ = jax.lax.scan(ascend, (kept, carry), jnp.asarray(table.ascent))
        return carry
