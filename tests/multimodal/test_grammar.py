"""Grammar of marked text: what may follow what, whole boxes from any logits, no markup without the switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, generate, initialise
from pmpjax.multimodal import PatchLocations, read_markup
from pmpjax.multimodal.examples import Layout, location_tokenizer
from pmpjax.multimodal.grammar import BEHIND_PHRASE, FIRST, OPEN, box_grammar

LOCATIONS = PatchLocations(3)


@pytest.fixture(scope="module")
def layout():
    return Layout(location_tokenizer(["a red disc is not here"] * 3, LOCATIONS, 270), LOCATIONS, latents=2)


def walk(layout, marked, begin=OPEN, switched=True):
    """Whether each token of a marked text was allowed where it stands."""
    grammar = box_grammar(layout.tokenizer, LOCATIONS, begin, switched)
    state, allowed = grammar.begin(jnp.zeros(1), jnp.array(1), 100), []
    for token in layout.ids(marked):
        allowed.append(bool(grammar.allowed(state)[token]))
        state = grammar.after(state, jnp.array(token))
    return allowed


BOX = "<object><patch_index_0001><patch_index_0005></object>"


@pytest.mark.parametrize(
    "marked",
    [
        "a red disc<|end|>",
        f"a <phrase>disc</phrase>{BOX} here",
        "<object><patch_index_0000><patch_index_0000></delimiter_of_multi_objects/><patch_index_0001><patch_index_0008>"
        "</object><|end|><|end|>",
        "<phrase>disc</phrase> is not here<|end|>",
    ],
)
def test_whole_markup_is_allowed(layout, marked):
    assert all(walk(layout, marked))


@pytest.mark.parametrize(
    ("marked", "at"),
    [
        ("<phrase></phrase>", 1),
        ("<phrase>disc<|end|>", -1),
        ("<phrase>disc</phrase></object>", -1),
        ("<object><patch_index_0001></object>", -1),
        ("<object><patch_index_0001><|end|>", -1),
        ("<object><patch_index_0001><patch_index_0003>", -1),  # left of the first corner
        ("<object><patch_index_0004><patch_index_0002>", -1),  # above it
        ("a<patch_index_0001>", -1),
        ("<image>", 0),
        ("<|end|>a", 1),
    ],
)
def test_broken_markup_is_not(layout, marked, at):
    allowed = walk(layout, marked)
    assert not allowed[at] and all(allowed[:at])


def test_without_the_switch_there_is_text_alone(layout):
    assert all(walk(layout, "a red disc<|end|>", switched=False))
    assert walk(layout, "<phrase>", switched=False) == [False] and walk(layout, "<object>", switched=False) == [False]


def test_every_state_has_a_token_to_go_on_with(layout):
    grammar = box_grammar(layout.tokenizer, LOCATIONS)
    modes = jnp.repeat(jnp.arange(8), LOCATIONS.size)
    states = (modes, jnp.tile(jnp.arange(LOCATIONS.size), 8), jnp.full(len(modes), 9))
    assert jax.vmap(grammar.allowed)(states).any(axis=1).all()


@pytest.mark.parametrize(("begin", "lead"), [(FIRST, "<object>"), (BEHIND_PHRASE, "")])
def test_any_model_writes_whole_boxes(layout, begin, lead):
    """Random parameters at a high temperature, from within a box: what is written reads without a problem."""
    decoder = Decoder(DecoderConfig(layout.tokenizer.get_vocab_size(), 8, 1, 2, 1, 16))
    prompts = Rows(jnp.ones((16, 2), jnp.int32), jnp.full(16, 2))
    params = initialise(decoder, jax.random.key(0), prompts.tokens)
    grammar = box_grammar(layout.tokenizer, LOCATIONS, begin)
    tokens = generate(decoder, params, prompts, 3, key=jax.random.key(1), temperature=5.0, mask=grammar)
    written = [lead + layout.text(row) for row in np.asarray(tokens)]
    boxes = [span.boxes for text in written for span in read_markup(text, LOCATIONS).spans]
    whole = [
        text for text in written if "<object>" in text and text.count("<patch") >= 2 and text.endswith("</object>")
    ]
    if begin == FIRST:
        assert len(whole) == len(boxes)
        assert all(text.count("<patch") in (2, 3) for text in written)
    assert all((one[:, 2:] > one[:, :2]).all() for one in boxes)
    assert len(set(written)) > 4


@pytest.mark.parametrize("steps", [1, 4, 5, 7])
def test_markup_is_closed_within_the_steps(layout, steps):
    decoder = Decoder(DecoderConfig(layout.tokenizer.get_vocab_size(), 8, 1, 2, 1, 16))
    prompts = Rows(jnp.ones((16, 2), jnp.int32), jnp.full(16, 2))
    params = initialise(decoder, jax.random.key(0), prompts.tokens)
    grammar = box_grammar(layout.tokenizer, LOCATIONS, OPEN)
    tokens = generate(decoder, params, prompts, steps, key=jax.random.key(1), temperature=5.0, mask=grammar)
    assert not [text for text in map(layout.text, np.asarray(tokens)) if read_markup(text, LOCATIONS).problems]
