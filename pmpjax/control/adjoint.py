"""How the states of the forward run are kept for the reverse sweep.

Every adjoint gives the same numbers to rounding; they trade memory for recomputation. In gradients of the training
loss a step, for SGD with a dev batch as large as the train batch, and in states kept:

| adjoint | gradients a step | kept |
|---|---|---|
| `Checkpointed()`, the default | 6 | 2 sqrt(T) states |
| `StoreAll()` | 5 | T states |
| `Linearized()` | 4 | T linearised steps: for plants that are small compared with memory |
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
from pmpjax.control.dynamics import Transition, Vjp
from pmpjax.control.tracing import Residuals

Start = Callable[[PyTree], PyTree]
Visit = Callable[[PyTree, Array, PyTree, PyTree, Vjp], PyTree]


class AbstractAdjoint(abc.ABC):
    """Runs a transition forward and visits its steps in reverse."""

    @abc.abstractmethod
    def reverse(self, transition: Transition, state: PyTree, start: Start, visit: Visit) -> tuple[PyTree, PyTree]:
        """carry = start(x_T), then carry = visit(carry, t, x_t, x_{t+1}, vjp_t) for t = T-1 .. 0.

        Returns x_T and the last carry. vjp_t maps lambda_{t+1} to the `Cotangents` of step t. Loops are scans of known
        length, so that a sweep can itself be differentiated in reverse.
        """


def _visit_in_reverse(transition: Transition, carry: PyTree, steps: Array, states: PyTree, visit: Visit) -> PyTree:
    """The last carry; each of `steps` is linearised at its row of `states`."""

    def back(carry: PyTree, row: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        t, x = row
        return visit(carry, t, x, *transition.linearize(t, x)), None

    return jax.lax.scan(back, carry, (steps, states), reverse=True)[0]


@dataclasses.dataclass(frozen=True)
class StoreAll(AbstractAdjoint):
    """Keep every state x_t; linearise each step again on the way back."""

    def reverse(self, transition: Transition, state: PyTree, start: Start, visit: Visit) -> tuple[PyTree, PyTree]:
        final, states = jax.lax.scan(lambda x, t: (transition.advance(t, x), x), state, transition.steps)
        return final, _visit_in_reverse(transition, start(final), transition.steps, states, visit)


@dataclasses.dataclass(frozen=True)
class Linearized(AbstractAdjoint):
    """Keep each step's linearisation from the forward run, so that nothing is computed twice.

    What does not change from step to step (a full batch) or is at hand already (the step's own batch and weights) is
    not stored.
    """

    def reverse(self, transition: Transition, state: PyTree, start: Start, visit: Visit) -> tuple[PyTree, PyTree]:
        residuals = Residuals(
            lambda x, u, w: transition.pullback(x, u, w)[1],
            (state, transition.control(0), transition.input(0)),
            (True, transition.problem.control_axis is not None, transition.problem.input_axis is not None),
        )

        def forward(x: PyTree, t: Array) -> tuple[PyTree, tuple[PyTree, list[Any]]]:
            following, vjp = transition.linearize(t, x)
            return following, (x, residuals.pack(vjp))

        final, (states, kept) = jax.lax.scan(forward, state, transition.steps)

        def back(carry: tuple[PyTree, PyTree], row: tuple[Array, PyTree, list[Any]]) -> tuple[PyTree, None]:
            inner, following = carry
            t, x, leaves = row
            vjp = residuals.unpack(leaves, (x, transition.control(t), transition.input(t)))
            return (visit(inner, t, x, following, vjp), x), None

        (carry, _), _ = jax.lax.scan(back, (start(final), final), (transition.steps, states, kept), reverse=True)
        return final, carry


@dataclasses.dataclass(frozen=True)
class Checkpointed(AbstractAdjoint):
    """Keep the first state of each segment; recompute a segment's states when the sweep reaches it.

    segment: steps in a segment; None is the divisor of T that keeps the fewest states, or ceil(sqrt(T)) where all
        divisors keep half as many again. Where it does not divide T the last segment is shorter and compiled apart.
    """

    segment: int | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise ValueError(f"Checkpointed(segment={self.segment}): expected at least 1")

    def segments(self, horizon: int) -> int:
        """Into how many a run of `horizon` steps is cut; the last one may be shorter.

        >>> Checkpointed().segments(100), Checkpointed().segments(53), Checkpointed(segment=5).segments(32)
        (10, 7, 7)
        """
        return -(-horizon // self._length(horizon))

    def _length(self, horizon: int) -> int:
        if self.segment is not None:
            return min(self.segment, horizon)
        root = math.isqrt(horizon - 1) + 1
        divisors = (length for length in range(1, horizon + 1) if horizon % length == 0)
        best = min(divisors, key=lambda length: length + horizon // length)
        return best if best + horizon // best <= 1.5 * (2 * root) else root

    def reverse(self, transition: Transition, state: PyTree, start: Start, visit: Visit) -> tuple[PyTree, PyTree]:
        length = self._length(transition.horizon)
        whole, rest = divmod(transition.horizon, length)
        firsts = length * jnp.arange(whole, dtype=jnp.int32)

        def advance(x: PyTree, first: Array, count: int) -> PyTree:
            return jax.lax.fori_loop(0, count, lambda i, y: transition.advance(first + i, y), x)

        def segment_back(carry: PyTree, first: Array, x: PyTree, count: int) -> PyTree:
            def keep(i: Array, loop: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                y, states = loop
                following = transition.advance(first + i, y)
                return following, trees.put(states, following, i + 1)

            _, states = jax.lax.fori_loop(0, count - 1, keep, (x, trees.rows_like(x, count)))
            return _visit_in_reverse(transition, carry, first + jnp.arange(count, dtype=jnp.int32), states, visit)

        beyond, states = jax.lax.scan(lambda x, first: (advance(x, first, length), x), state, firsts)
        final = advance(beyond, jnp.int32(whole * length), rest)
        carry = start(final)
        if rest:
            carry = segment_back(carry, jnp.int32(whole * length), beyond, rest)
        carry, _ = jax.lax.scan(
            lambda carry, row: (segment_back(carry, *row, length), None), carry, (firsts, states), reverse=True
        )
        return final, carry


@dataclasses.dataclass(frozen=True)
class Binomial(AbstractAdjoint):
    """Keep a fixed number of states, whatever T, and recompute as few steps as that allows.

    Griewank and Walther's optimal schedule is a table made in numpy (`pmpjax.control.binomial.schedule`) that drives
    two scans, one row a step forward or back, so that neither memory nor compile time grows with T.

    slots: states kept, x_0 among them. s slots and r repetitions of the forward run serve T = C(s + r, s) steps.

    Source: A. Griewank and A. Walther, Algorithm 799: Revolve, 2000.
    """

    slots: int = 12

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"Binomial(slots={self.slots}): expected at least 1")

    def reverse(self, transition: Transition, state: PyTree, start: Start, visit: Visit) -> tuple[PyTree, PyTree]:
        table = schedule(transition.horizon, self.slots)

        def restored(kept: PyTree, x: PyTree, slot: Array) -> PyTree:
            return trees.select(slot >= 0, trees.take(kept, jnp.maximum(slot, 0)), x)

        def stored(kept: PyTree, x: PyTree, slot: Array) -> PyTree:
            # Where nothing is stored the first row is written back as it was.
            row = jnp.maximum(slot, 0)
            return trees.put(kept, trees.select(slot >= 0, x, trees.take(kept, row)), row)

        def descend(loop: tuple[PyTree, PyTree], row: Array) -> tuple[tuple[PyTree, PyTree], None]:
            kept, x = loop
            load, t, store, _ = row
            x = transition.advance(t, restored(kept, x, load))
            return (stored(kept, x, store), x), None

        kept = trees.rows_like(state, self.slots)
        (kept, turning), _ = jax.lax.scan(descend, (kept, state), jnp.asarray(table.descent))
        # The first step to be visited is T - 1; x_T, where the costate begins, lies one step further.
        final = transition.advance(jnp.int32(transition.horizon - 1), turning)

        def ascend(loop: tuple[PyTree, PyTree, PyTree], row: Array) -> tuple[tuple[PyTree, PyTree, PyTree], None]:
            kept, x, carry = loop
            load, t, store, visiting = row
            x, carry = jax.lax.cond(
                visiting == 1,
                lambda x, carry: (x, visit(carry, t, x, *transition.linearize(t, x))),
                lambda x, carry: (transition.advance(t, x), carry),
                *(restored(kept, x, load), carry),
            )
            return (stored(kept, x, store), x, carry), None

        (_, _, carry), _ = jax.lax.scan(ascend, (kept, turning, start(final)), jnp.asarray(table.ascent))
        return final, carry
