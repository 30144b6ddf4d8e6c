"""Beam search and diverse beam search over any model that has a cache."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pmpjax.models.cache import take_rows
from pmpjax.models.search.endings import Ending, is_end, not_finite
from pmpjax.models.search.masks import TokenMask, after_rows, allowed_rows, begin_rows
from pmpjax.models.search.rollout import Advance, Start


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["diversity", "length_penalty"],
    meta_fields=["size", "groups", "early_stopping"],
)
@dataclasses.dataclass(frozen=True)
class Beams:
    """What a beam search keeps, and how it compares texts.

    `diversity` and `length_penalty` may be traced: other values need no compilation.

    Attributes:
        size: texts that are kept in each step, of all groups together.
        groups: of `size / groups` beams each, which search one after another in each step (diverse beam search,
            arXiv 1610.02424).
        diversity: what a token's log-probability loses for each beam of an earlier group that has taken this token in
            this step (Hamming diversity).
        length_penalty: alpha in score = sum log p / length^alpha. Log-probabilities are negative: above 0 it favours
            long texts, below 0 short ones.
        early_stopping: True: a group is done when it has as many ended texts as beams. False: only when, in addition,
            its best beam would score no higher than the worst of them if it ended at this length. "never": the same,
            at the length that favours it most. As transformers defines it.
    """

    size: int = 4
    groups: int = 1
    diversity: float | Array = 0.0
    length_penalty: float | Array = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self):
        if self.size < 1 or self.groups < 1 or self.size % self.groups:
            raise ValueError(
                f"the groups must divide the beams: found {self.size} beams in {self.groups} groups; take "
                f"{max(1, self.groups) * max(1, round(self.size / max(1, self.groups)))} beams, or 1 group"
            )
        # Inside a compiled function these two are arrays, whose values were checked outside.
        known = [value for value in (self.length_penalty, self.diversity) if isinstance(value, (int, float))]
        negative = isinstance(self.diversity, (int, float)) and self.diversity < 0
        if negative or not all(map(math.isfinite, known)):
            raise ValueError(
                f"length_penalty must be finite, and diversity finite and not negative; found {self.length_penalty} "
                f"and {self.diversity}"
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping must be True, False or "never", found {self.early_stopping!r}')


class Found(NamedTuple):
    """The best texts, highest score first; of several groups together.

    Fields:
        tokens: [N, beams, steps] int32; 0 behind a text's length.
        lengths: [N, beams], the token that ends a text among them; 0 at empty places.
        scores: [N, beams] (sum log p - penalties of diversity) / length^alpha; -inf at empty places.
        log_probabilities: [N, beams] sum log p under the model alone; 0 at empty places.
        status: [N, beams], an `Ending` each.
    """

    tokens: Int[Array, "n beams steps"]
    lengths: Int[Array, "n beams"]
    scores: Float[Array, "n beams"]
    log_probabilities: Float[Array, "n beams"]
    status: Int[Array, "n beams"]


class _State(NamedTuple):
    """Beams [N, groups, beams, ...] with their logits, cache and mask states by row, and the texts that are complete.

    A beam whose score is -inf is not there.
    """

    step: Array
    logits: Array
    cache: Any
    mask: Any
    tokens: Array
    scores: Array
    log_p: Array
    complete: Found
    done: Array
    broken: Array


def search(
    advance: Advance,
    start: Start,
    steps: int,
    beams: Beams,
    *,
    ends: Sequence[int] = (),
    mask: TokenMask | None = None,
) -> Found:
    """The texts of highest (sum_i log p(token_i | prompt, token_0..token_{i-1})) / length^alpha that beams find.

    In each step the 2 K best continuations of a group's K beams are looked at (with several `ends`, (1 + ends) K):
    those among the first K that end go to its complete texts, of which it keeps the K best; the first K that do not
    end go on. In the last step the first K are complete, whatever they end with. To be called under `jax.jit`.

    A mask takes away continuations and leaves the log-probabilities of the others as they are, as transformers does.

    Raises:
        ValueError: a group has more beams than there are texts; names both numbers.
    """
    n, vocabulary = start.logits.shape
    groups, size = beams.groups, beams.size // beams.groups
    _check_size(size, vocabulary, steps, sum(0 <= end < vocabulary for end in set(ends)))
    keep = min(max(2, 1 + len(ends)) * size, size * vocabulary)
    rows = jnp.repeat(jnp.arange(n), beams.size)
    dtype = start.logits.dtype

    def step(now: _State) -> _State:
        log_p = jax.nn.log_softmax(now.logits, axis=-1)
        broken = not_finite(now.logits)
        log_p = jnp.where(broken[:, None], -jnp.inf, log_p)
        allowed = allowed_rows(mask, now.mask, (len(rows), vocabulary))
        log_p = (log_p if allowed is None else jnp.where(allowed, log_p, -jnp.inf)).reshape(n, groups, size, -1)
        broken = broken.reshape(n, groups, size) & (now.scores > -jnp.inf)

        def choose(taken: Array, group: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, ...]]:
            log_p, scores, done = group
            total = scores[..., None] + log_p - beams.diversity * taken[:, None, :]
            best, index = jax.lax.top_k(total.reshape(n, -1), keep)
            ending = is_end(index % vocabulary, ends)
            open_best, place = jax.lax.top_k(jnp.where(ending, -jnp.inf, best), size)
            token = jnp.take_along_axis(index, place, axis=1) % vocabulary
            counts = (open_best > -jnp.inf) & ~done[:, None]
            taken = taken + jnp.sum(jax.nn.one_hot(token, vocabulary, dtype=dtype) * counts[..., None], axis=1)
            return taken, (best, index, open_best, place)

        # Groups one after another: each sees what those before it have taken.
        by_group = (jnp.moveaxis(log_p, 1, 0), jnp.moveaxis(now.scores, 1, 0), now.done.T)
        _, chosen = jax.lax.scan(choose, jnp.zeros((n, vocabulary), dtype), by_group)
        best, index, open_best, place = (jnp.moveaxis(part, 0, 1) for part in chosen)  # [N, groups, ...]

        beam, token = index // vocabulary, index % vocabulary
        texts = jnp.take_along_axis(now.tokens, beam[..., None], axis=2).at[..., now.step].set(token)
        added = jnp.take_along_axis(log_p.reshape(n, groups, -1), index, axis=2)
        sums = jnp.take_along_axis(now.log_p, beam, axis=2) + added

        length = (now.step + 1).astype(dtype)
        ending, last = is_end(token, ends), now.step == steps - 1
        completes = (
            (ending | last) & (jnp.arange(keep) < size)[None, None, :] & (best > -jnp.inf) & ~now.done[..., None]
        )
        new = Found(
            texts,
            jnp.full(token.shape, now.step + 1),
            jnp.where(completes, best / length**beams.length_penalty, -jnp.inf),
            sums,
            jnp.where(ending, Ending.ENDED, Ending.OUT_OF_STEPS),
        )
        complete = _best(now.complete, new, size)

        # Whose score could still rise: in transformers 5.24 the beams that go on, in 4.36, which still has groups, the
        # texts that end in this step too.
        hope = best[..., 0] if groups > 1 else open_best[..., 0]
        longest = (beams.early_stopping == "never") & (jnp.asarray(beams.length_penalty) > 0)
        at = jnp.where(longest, steps, length)
        worst = complete.scores[..., -1]
        hopeless = hope / at**beams.length_penalty <= worst
        full = worst > -jnp.inf
        done = full & (jnp.asarray(beams.early_stopping is True) | hopeless)
        done |= open_best[..., 0] == -jnp.inf  # no beam is left

        def onward(part: Array) -> Array:
            at = place.reshape(*place.shape, *(1,) * (part.ndim - 3))
            return jnp.take_along_axis(part, at, axis=2)

        parents = onward(beam) + size * jnp.arange(groups)[None, :, None] + beams.size * jnp.arange(n)[:, None, None]
        parents, follow = parents.reshape(-1), onward(token).reshape(-1)
        masks = jax.tree.map(lambda leaf: leaf[parents], now.mask)
        logits, cache = advance(follow, take_rows(now.cache, parents))
        return _State(
            now.step + 1,
            logits,
            cache,
            after_rows(mask, masks, follow),
            onward(texts),
            open_best,
            onward(sums),
            complete,
            now.done | done,
            now.broken | jnp.any(broken & ~now.done[..., None], axis=(1, 2)),
        )

    scores = jnp.full((n, groups, size), -jnp.inf, dtype)
    tokens = jnp.zeros((n, groups, size, steps), jnp.int32)
    masks = begin_rows(mask, start.tokens, start.lengths, steps)
    first = _State(
        jnp.zeros((), jnp.int32),
        start.logits[rows],
        take_rows(start.cache, rows),
        jax.tree.map(lambda leaf: leaf[rows], masks),
        tokens,
        scores.at[..., 0].set(0.0),  # all beams are the prompt: one is enough
        jnp.zeros_like(scores),
        Found(
            tokens,
            jnp.zeros(scores.shape, jnp.int32),
            scores,
            jnp.zeros_like(scores),
            jnp.full(scores.shape, Ending.NOTHING_ALLOWED, jnp.int32),
        ),
        jnp.zeros((n, groups), bool),
        jnp.zeros(n, bool),
    )
    last = jax.lax.while_loop(lambda now: (now.step < steps) & ~jnp.all(now.done), step, first)
    found = _sorted(jax.tree.map(lambda part: part.reshape(n, beams.size, *part.shape[3:]), last.complete), beams.size)
    return found._replace(status=jnp.where(last.broken[:, None], Ending.NOT_FINITE, found.status))


def _check_size(size: int, vocabulary: int, steps: int, ends: int) -> None:
    open_texts, count = 1, 0  # that have not ended, and that have
    for _ in range(steps):
        if count + open_texts >= size:
            return
        open_texts, count = open_texts * (vocabulary - ends), count + open_texts * ends
    if count + open_texts < size:
        raise ValueError(
            f"{size} beams in a group are more than the {count + open_texts} texts of up to {steps} tokens from "
            f"{vocabulary}, {ends} of which end a text; take fewer beams or more steps"
        )


def _best(old: Found, new: Found, size: int) -> Found:
    """The `size` best of both, [N, groups, size, ...], the best first; of equals the older."""
    return _sorted(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), old, new), size)


def _sorted(found: Found, size: int) -> Found:
    """The `size` best; the last axis of `scores` is that of the texts. Places without a text are empty."""
    scores, place = jax.lax.top_k(found.scores, size)
    axis, empty = scores.ndim - 1, scores == -jnp.inf

    def take(part: Array, at_empty: int) -> Array:
        at, none = (x.reshape(*x.shape, *(1,) * (part.ndim - x.ndim)) for x in (place, empty))
        return jnp.where(none, jnp.asarray(at_empty, part.dtype), jnp.take_along_axis(part, at, axis=axis))

    return Found(
        take(found.tokens, 0),
        take(found.lengths, 0),
        scores,
        take(found.log_probabilities, 0),
        take(found.status, Ending.NOTHING_ALLOWED),
    )
