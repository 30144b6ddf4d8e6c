"""A model that reads images, asked: where a phrase is seen, what the image shows, what stands in a box."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pmpjax.models import Decoder, EmbeddedRows, ImageRows, Kosmos, embedded, image_example_losses
from pmpjax.models.search import Ending, Sampling, sample
from pmpjax.multimodal.examples import Example, Layout, grounded, image_rows, referred
from pmpjax.multimodal.grammar import BEHIND_PHRASE, OPEN, box_grammar
from pmpjax.multimodal.markup import GROUNDING, Grounded, read_markup

_ROUND = 32  # lengths of rows are multiples of it: few lengths, few compilations
_BOX_STEPS = 4  # <object>, two locations, </object>
CAPTION_STEPS = 40
"""Tokens of a caption at most."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A model with all that it takes to ask it.

    Attributes:
        kosmos: the module.
        params: its parameters.
        layout: of its rows.
        batch: rows at once; the last batch is filled up, so that all compile once.
    """

    kosmos: Kosmos
    params: Any
    layout: Layout
    batch: int = 64


def ground(
    reader: Reader,
    images: Sequence[np.ndarray],
    phrases: Sequence[str],
    asked: Callable[[int], None] = lambda rows: None,
) -> list[Float[np.ndarray, "n 4"]]:
    """The box of each phrase in its image, [1, 4]; [0, 4] where the model writes that it is not there.

    Behind `<grounding><phrase>...</phrase>` the most probable tokens that the grammar allows, one after another.

    Args:
        images: [S, S, 3] each, of the model's size.
        asked: told of the number of phrases that are answered, after each batch.

    Raises ValueError for an empty phrase or markup in it.
    """
    examples = [
        grounded(image, phrase, None, reader.layout.locations)._replace(answer="")
        for image, phrase in zip(images, phrases, strict=True)
    ]
    found = write(reader, examples, _BOX_STEPS, begin=BEHIND_PHRASE, asked=asked)
    return [one.spans[0].boxes if one.spans else np.zeros((0, 4)) for one in found]


def describe(
    reader: Reader, images: Sequence[np.ndarray], with_boxes: bool = True, steps: int = CAPTION_STEPS
) -> list[Grounded]:
    """A caption of each image, its phrases with boxes behind the switch `<grounding>`, without any where it is off."""
    examples = [Example(image, GROUNDING if with_boxes else "", "") for image in images]
    return write(reader, examples, steps, begin=OPEN, switched=with_boxes)


def write(
    reader: Reader,
    examples: Sequence[Example],
    steps: int,
    *,
    begin: int = OPEN,
    switched: bool = True,
    asked: Callable[[int], None] = lambda rows: None,
) -> list[Grounded]:
    """What the model writes on from the examples' prompts, greedily, within the grammar of marked text.

    Args:
        steps: tokens at most.
        begin, switched: as in `box_grammar`.
    """
    if not examples:
        return []
    layout, decoder = reader.layout, Decoder(reader.kosmos.config.decoder)
    mask = box_grammar(layout.tokenizer, layout.locations, begin, switched, layout.end)
    texts: list[Grounded] = []
    for rows, count in _batches(_rows(examples, layout, ended=False), reader.batch):
        prompts = _embedded(reader.kosmos, reader.params, rows)
        ends = (layout.id(layout.end),)
        drawn = sample(decoder, reader.params["decoder"], prompts, steps, Sampling(0.0), ends=ends, mask=mask)
        if (np.asarray(drawn.status)[:count] == Ending.NOT_FINITE).any():
            raise ValueError("the model's logits are not finite; look for NaN among its parameters")
        written = zip(np.asarray(drawn.tokens)[:count], np.asarray(drawn.lengths), strict=False)
        texts += [read_markup(layout.text(row[:length]), layout.locations) for row, length in written]
        asked(count)
    return texts


def option_scores(
    reader: Reader,
    images: Sequence[np.ndarray],
    boxes: Float[np.ndarray, "n 4"],
    options: Sequence[Sequence[str]],
    asked: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "n c"]:
    """s[n, c] = (1 / T) log p(option c, end | image n, "it" in box n, "is"), T its tokens: referring generation.

    Args:
        options: as many for each image.
        asked: told of the number of options that are scored, after each batch.
    """
    examples = [
        referred(image, box[None], option, reader.layout.locations)
        for image, box, row in zip(images, boxes, options, strict=True)
        for option in row
    ]
    losses = []
    for rows, count in _batches(_rows(examples, reader.layout), reader.batch):
        losses.append(np.asarray(_losses(reader.kosmos, reader.params, rows))[:count])
        asked(count)
    return -np.concatenate(losses).reshape(len(images), -1)


def _rows(examples: Sequence[Example], layout: Layout, ended: bool = True) -> ImageRows:
    longest = int(image_rows(examples, layout, ended=ended).lengths.max())
    return image_rows(examples, layout, -(-longest // _ROUND) * _ROUND, ended)


def _batches(rows: ImageRows, size: int) -> Iterator[tuple[ImageRows, int]]:
    """Batches of one size, and how many rows of each count: the last is filled up with its first row."""
    for begin in range(0, len(rows.tokens), size):
        count = min(size, len(rows.tokens) - begin)
        chosen = begin + np.where(np.arange(size) < count, np.arange(size), 0)
        yield jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), rows), count


@functools.partial(jax.jit, static_argnames="kosmos")
def _embedded(kosmos: Kosmos, params: Any, rows: ImageRows) -> EmbeddedRows:
    return embedded(kosmos, params, rows)


@functools.partial(jax.jit, static_argnames="kosmos")
def _losses(kosmos: Kosmos, params: Any, rows: ImageRows) -> Float[Array, " n"]:
    return image_example_losses(kosmos)(params, rows)
