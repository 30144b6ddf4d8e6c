"""The grammar of marked text: while a model writes, a box is never half written, reversed, or without its tags."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from tokenizers import Tokenizer

from pmpjax.data.tokenizer import END_OF_DOCUMENT, vocabulary_size
from pmpjax.models.search.masks import TokenMask
from pmpjax.multimodal.boxes import PatchLocations

# Kinds of tokens, then modes: what was written last.
_TEXT, _PHRASE, _END_PHRASE, _OBJECT, _END_OBJECT, _DELIMITER, _END, _LOCATION, _NEVER = range(9)
OPEN, IN_PHRASE, BEHIND_PHRASE, FIRST, SECOND, BOX, ENDED, _EMPTY_PHRASE = range(8)
_TAGS = {
    "<phrase>": _PHRASE,
    "</phrase>": _END_PHRASE,
    "<object>": _OBJECT,
    "</object>": _END_OBJECT,
    "</delimiter_of_multi_objects/>": _DELIMITER,
}
_EDGES = (
    (OPEN, _TEXT, OPEN),
    (OPEN, _PHRASE, _EMPTY_PHRASE),
    (OPEN, _OBJECT, FIRST),
    (OPEN, _END, ENDED),
    (_EMPTY_PHRASE, _TEXT, IN_PHRASE),
    (IN_PHRASE, _TEXT, IN_PHRASE),
    (IN_PHRASE, _END_PHRASE, BEHIND_PHRASE),
    (BEHIND_PHRASE, _OBJECT, FIRST),
    (BEHIND_PHRASE, _TEXT, OPEN),  # " is not here"
    (FIRST, _LOCATION, SECOND),
    (SECOND, _LOCATION, BOX),
    (BOX, _DELIMITER, FIRST),
    (BOX, _END_OBJECT, OPEN),
    (ENDED, _END, ENDED),
)
_FORBIDDEN = -1
_TO_CLOSE = np.array([0, 2, 1, 3, 2, 1, 0, 3], np.int32)
"""Tokens that close the markup from each mode."""


@functools.lru_cache(maxsize=32)
def box_grammar(
    tokenizer: Tokenizer,
    locations: PatchLocations,
    begin: int = OPEN,
    switched: bool = True,
    end: str = END_OF_DOCUMENT,
) -> TokenMask:
    """Marked text of Kosmos-2: (text | <phrase> text </phrase> [boxes] | boxes)*, boxes = <object> L L ... </object>.

    The second location of a box is neither above nor left of the first. Without the switch no markup may be written.
    Markup is begun only where the steps to come can close it. A state is (mode, number of the first corner, steps to
    come). The same arguments give the same mask, which is compiled once.

    Args:
        begin: `BEHIND_PHRASE` for a prompt that ends with `</phrase>`, `FIRST` for one that ends with `<object>`.
        switched: whether `<grounding>` stands in the prompt; if not, text alone may be written.

    >>> from pmpjax.multimodal.scene_rows import scene_tokenizer
    >>> tokenizer = scene_tokenizer(PatchLocations(2))
    >>> mask = box_grammar(tokenizer, PatchLocations(2), begin=BEHIND_PHRASE)
    >>> state = mask.after(mask.begin(jnp.zeros(1), 1, 4), jnp.array(tokenizer.token_to_id("<object>")))
    >>> int(mask.allowed(state).sum())
    4
    """
    kinds, numbers = _kinds(tokenizer, locations, end)
    edges = np.full((8, 9), _FORBIDDEN, np.int32)
    for mode, kind, following in _EDGES:
        if switched or kind in (_TEXT, _END):
            edges[mode, kind] = following
    side = locations.side

    def start(tokens: Array, length: Any, steps: int) -> tuple[Array, Array, Array]:
        return jnp.int32(begin), jnp.int32(0), jnp.int32(steps)

    def allowed(state: tuple[Array, Array, Array]) -> Bool[Array, " v"]:
        mode, first, left = state
        following = jnp.asarray(edges)[mode][kinds]
        follows = (following != _FORBIDDEN) & (jnp.asarray(_TO_CLOSE)[following] < left)
        level_or_after = (numbers % side >= first % side) & (numbers // side >= first // side)
        return follows & ((mode != SECOND) | level_or_after)

    def after(state: tuple[Array, Array, Array], token: Array) -> tuple[Array, Array, Array]:
        mode, first, left = state
        following = jnp.asarray(edges)[mode, jnp.asarray(kinds)[token]]
        return following, jnp.where(mode == FIRST, jnp.asarray(numbers)[token], first), left - 1

    return TokenMask(start, allowed, after)


def _kinds(
    tokenizer: Tokenizer, locations: PatchLocations, end: str
) -> tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """What each token is, and the numbers of location tokens."""
    vocabulary = tokenizer.get_vocab()
    kinds = np.full(vocabulary_size(tokenizer), _NEVER, np.int32)
    numbers = np.zeros_like(kinds)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    for name, number in vocabulary.items():
        kinds[number] = _NEVER if name in special else _TEXT
    for number in range(locations.size):
        at = vocabulary[f"<patch_index_{number:04d}>"]
        kinds[at], numbers[at] = _LOCATION, number
    for name, kind in _TAGS.items():
        kinds[vocabulary[name]] = kind
    kinds[vocabulary[end]] = _END
    return kinds, numbers
