"""The grammar of marked text: while a model writes, a box is never half written, reversed, or without its tags."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from tokenizers import Tokenizer

from pmpjax.data.tokenizer import END_OF_DOCUMENT, vocabulary_size
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


class BoxGrammar(NamedTuple):
    """Marked text of Kosmos-2: (text | <phrase> text </phrase> [boxes] | boxes)*, boxes = <object> L L ... </object>.

    The second location of a box is neither above nor left of the first. Without the switch no markup may be written.

    Fields:
        kinds: [V] what each token is.
        numbers: [V] of location tokens.
        edges: [modes, kinds] the mode behind a token of a kind, -1 where it may not come.
        side: P of the locations.
        begin: mode behind the prompt.

    >>> from pmpjax.multimodal.lessons import scene_tokenizer
    >>> tokenizer = scene_tokenizer(PatchLocations(2))
    >>> grammar = box_grammar(tokenizer, PatchLocations(2), begin=BEHIND_PHRASE)
    >>> state = grammar.after(grammar.start(1), jnp.array([tokenizer.token_to_id("<object>")]))
    >>> int(grammar.allowed(state).sum())
    4
    """

    kinds: Any
    numbers: Any
    edges: Any
    side: Any
    begin: Any = OPEN

    def start(self, rows: int) -> tuple[Array, Array]:
        """(mode, number of the first corner) of each row."""
        return jnp.full(rows, self.begin, jnp.int32), jnp.zeros(rows, jnp.int32)

    def allowed(self, state: tuple[Array, Array]) -> Bool[Array, "n v"]:
        """Tokens with an edge from the row's mode; behind a first corner those below and right of it, or level."""
        mode, first = state
        follows = self.edges[mode][:, self.kinds] != _FORBIDDEN
        right = self.numbers[None, :] % self.side >= (first % self.side)[:, None]
        below = self.numbers[None, :] // self.side >= (first // self.side)[:, None]
        return follows & ((mode != SECOND)[:, None] | (right & below))

    def after(self, state: tuple[Array, Array], token: Int[Array, " n"]) -> tuple[Array, Array]:
        """The modes that the tokens lead to."""
        mode, first = state
        return self.edges[mode, self.kinds[token]], jnp.where(mode == FIRST, self.numbers[token], first)


def box_grammar(
    tokenizer: Tokenizer,
    locations: PatchLocations,
    begin: int = OPEN,
    switched: bool = True,
    end: str = END_OF_DOCUMENT,
) -> BoxGrammar:
    """The grammar over a tokenizer's ids.

    Args:
        begin: `BEHIND_PHRASE` for a prompt that ends with `</phrase>`, `FIRST` for one that ends with `<object>`.
        switched: whether `<grounding>` stands in the prompt; if not, text alone may be written.
    """
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
    edges = np.full((8, 9), _FORBIDDEN, np.int32)
    for mode, kind, following in _EDGES:
        if switched or kind in (_TEXT, _END):
            edges[mode, kind] = following
    return BoxGrammar(jnp.asarray(kinds), jnp.asarray(numbers), jnp.asarray(edges), locations.side, begin)
