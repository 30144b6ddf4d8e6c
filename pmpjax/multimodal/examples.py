"""From (image, text, spans, boxes) to rows with labels: what a model reads, and what of it the loss is made of."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from tokenizers import AddedToken, Tokenizer

from pmpjax.data.tokenizer import END_OF_DOCUMENT, train_tokenizer
from pmpjax.models import ImageRows
from pmpjax.multimodal.boxes import PatchLocations
from pmpjax.multimodal.markup import GROUNDING, Span, write_markup

BEGIN, IMAGE, END_IMAGE = "<s>", "<image>", "</image>"
MARKUP = ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>")
NOT_HERE = " is not here"
"""Follows a phrase that has no box: "nothing there" as an answer."""


class Example(NamedTuple):
    """An image, what is given of a marked text, and what is to be written.

    Fields:
        image: [S, S, 3].
        prompt: marked text that carries no loss.
        answer: marked text that does; a token behind it ends the row.
    """

    image: UInt8[np.ndarray, "s s 3"]
    prompt: str
    answer: str


def described(image: np.ndarray, text: str, spans: Sequence[Span], locations: PatchLocations) -> Example:
    """A caption and, where it has spans, their boxes behind the switch `<grounding>`.

    >>> image = np.zeros((4, 4, 3), np.uint8)
    >>> described(image, "a disc", [Span(0, 6, np.array([[0.0, 0.0, 0.5, 1.0]]))], PatchLocations(2)).answer
    '<phrase>a disc</phrase><object><patch_index_0000><patch_index_0002></object>'
    """
    return Example(image, GROUNDING if len(spans) else "", write_markup(text, spans, locations=locations))


def grounded(image: np.ndarray, phrase: str, boxes: np.ndarray | None, locations: PatchLocations) -> Example:
    """A phrase, given, and its boxes [n, 4], or `NOT_HERE` for None: phrase grounding, referring comprehension.

    >>> grounded(np.zeros((4, 4, 3), np.uint8), "a disc", None, PatchLocations(2))[1:]
    ('<grounding><phrase>a disc</phrase>', ' is not here')
    """
    prompt = f"{GROUNDING}<phrase>{_clean(phrase)}</phrase>"
    if boxes is None:
        return Example(image, prompt, NOT_HERE)
    return Example(image, prompt, write_markup("", [Span(0, 0, boxes)], locations=locations))


def referred(image: np.ndarray, boxes: np.ndarray, answer: str, locations: PatchLocations) -> Example:
    """Boxes, given, and what is seen there: referring generation, in Kosmos-2's form "It<box> is".

    >>> referred(np.zeros((4, 4, 3), np.uint8), np.array([[0.0, 0.0, 0.5, 1.0]]), "a disc", PatchLocations(2))[1:]
    ('<grounding><phrase>it</phrase><object><patch_index_0000><patch_index_0002></object> is', ' a disc')
    """
    marked = write_markup("it is", [Span(0, 2, boxes)], locations=locations)
    return Example(image, f"{GROUNDING}{marked}", f" {_clean(answer)}")


def _clean(text: str) -> str:
    if not text.strip():
        raise ValueError("the phrase is empty; say what to look for")
    return write_markup(text.strip(), [])  # refuses markup


def location_tokenizer(texts: Iterable[str], locations: PatchLocations, vocabulary: int = 512) -> Tokenizer:
    """Bytes and merges of `texts` (`pmpjax.data.train_tokenizer`), then markup and a token a location.

    Args:
        texts: without markup, of the kind that will be read; any other text is encoded too, by its bytes.
        vocabulary: ids before markup and locations.

    >>> tokenizer = location_tokenizer(["a red disc"] * 3, PatchLocations(2), 270)
    >>> tokenizer.encode("<object><patch_index_0003></object>").tokens
    ['<object>', '<patch_index_0003>', '</object>']
    """
    tokenizer = train_tokenizer(texts, vocabulary)
    names = [BEGIN, IMAGE, END_IMAGE, GROUNDING, *MARKUP]
    names += [f"<patch_index_{number:04d}>" for number in range(locations.size)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.encode_special_tokens = False  # here texts come through `write_markup`, which refuses markup in them
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a row is laid out: `<s> <image> I_1 ... I_K </image> [<grounding>] text <end>`.

    Attributes:
        tokenizer: with markup and location tokens, of `location_tokenizer` or a folder of Kosmos-2.
        locations: that boxes are written with.
        latents: K, embeddings of an image.
        mean, deviation: of pixels from 0 to 1, per channel: what the model was trained with.
        end: the token behind a text.
    """

    tokenizer: Tokenizer
    locations: PatchLocations = dataclasses.field(default_factory=lambda: PatchLocations(16))
    latents: int = 16
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.25, 0.25, 0.25)
    end: str = END_OF_DOCUMENT

    def __post_init__(self) -> None:
        names = [BEGIN, IMAGE, END_IMAGE, GROUNDING, *MARKUP[:4], f"<patch_index_{self.locations.size - 1:04d}>"]
        missing = [name for name in [*names, self.end] if self.tokenizer.token_to_id(name) is None]
        if missing:
            raise ValueError(
                f"the tokenizer has no {', '.join(missing)}; give one with markup and {self.locations.size} locations"
            )

    def id(self, name: str) -> int:
        """The id of a special token; KeyError where there is none."""
        return self.tokenizer.get_vocab()[name]

    def ids(self, marked: str) -> list[int]:
        """The ids of marked text."""
        return self.tokenizer.encode(marked, add_special_tokens=False).ids

    def text(self, ids: Int[np.ndarray, " l"]) -> str:
        """The marked text of ids, up to the first end."""
        written, end = ids.tolist(), self.id(self.end)
        kept = written[: written.index(end)] if end in written else written
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def pixels(self, image: UInt8[np.ndarray, "*n s s 3"]) -> Float[np.ndarray, "*n s s 3"]:
        """(image / 255 - mean) / deviation, float32."""
        mean, deviation = (np.asarray(values, np.float32) for values in (self.mean, self.deviation))
        return (image.astype(np.float32) / 255 - mean) / deviation


def image_rows(examples: Sequence[Example], layout: Layout, length: int | None = None, ended: bool = True) -> ImageRows:
    """Rows [N, length] of one image each; the loss counts tokens of the answers, locations among them, and the end.

    Args:
        length: of all rows, so that they compile once; None: the longest one's.
        ended: whether an answer ends with the end token; False for prompts to write on from.

    Raises ValueError for a row that is longer, with its text, and for no example.
    """
    if not examples:
        raise ValueError("there is no example to make rows of; give at least one")
    head = [layout.id(BEGIN), layout.id(IMAGE), *[layout.id(IMAGE)] * layout.latents, layout.id(END_IMAGE)]
    tail = [layout.id(layout.end)] if ended else []
    parts = [(head + layout.ids(one.prompt), layout.ids(one.answer) + tail) for one in examples]
    lengths = np.array([len(prompt) + len(answer) for prompt, answer in parts], np.int32)
    length = int(lengths.max()) if length is None else length
    if lengths.max() > length:
        row = int(lengths.argmax())
        raise ValueError(
            f"row {row} has {lengths[row]} tokens, expected at most {length}: "
            f"{examples[row].prompt + examples[row].answer!r}; raise length or shorten the text"
        )
    tokens = np.zeros((len(parts), length), np.int32)
    predicted = np.zeros((len(parts), length), bool)
    for row, (prompt, answer) in enumerate(parts):
        tokens[row, : lengths[row]] = prompt + answer
        predicted[row, len(prompt) : lengths[row]] = True
    places = np.zeros_like(predicted)
    places[:, 2 : 2 + layout.latents] = True
    images = np.stack([layout.pixels(one.image) for one in examples])[:, None]
    return ImageRows(tokens, lengths, images, places, predicted)
