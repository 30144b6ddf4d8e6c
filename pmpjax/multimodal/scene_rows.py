"""Rows to train on: a mixture of captions, phrases to find, boxes to name, and phrases that fit nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
from tokenizers import Tokenizer

from pmpjax.models import ImageRows
from pmpjax.multimodal.boxes import PatchLocations
from pmpjax.multimodal.examples import (
    NOT_HERE,
    Example,
    Layout,
    described,
    grounded,
    image_rows,
    location_tokenizer,
    referred,
)
from pmpjax.multimodal.scenes import (
    COLOURS,
    KINDS,
    SHAPES,
    Scene,
    SceneConfig,
    absent_kinds,
    caption,
    draw_scene,
    expressions,
)

RELATIONS = ("left of", "right of", "above", "below")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Shares of the rows, of which the rest are captions with boxes.

    Attributes:
        plain: captions without the switch, hence without boxes.
        find: "the shape left of a blue disc", or "a red square", given, and its box.
        name: a box given, and what is there.
        absent: a phrase given that nothing in the scene fits.
    """

    plain: float = 0.1
    find: float = 0.4
    name: float = 0.1
    absent: float = 0.1

    def __post_init__(self) -> None:
        shares = dataclasses.astuple(self)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"the shares are {shares}, expected none below 0 and a sum of at most 1")


PHRASES = "'a red square' and 'the shape left of a blue disc'"


def unknown_words(phrase: str) -> list[str]:
    """Words of a phrase that stand in no text of the scenes: what a model trained on them says to it means nothing.

    >>> unknown_words("the shape above a Red dog")
    ['Red', 'dog']
    """
    known = {*"a the shape".split(), *COLOURS, *SHAPES, *" ".join(RELATIONS).split()}
    return sorted(set(phrase.split()) - known)


def scene_tokenizer(locations: PatchLocations) -> Tokenizer:
    """`location_tokenizer` of every text that scenes have: a word is a token."""
    texts = [f"a {kind} {joint} a {kind} and a {kind}" for kind in KINDS for joint in RELATIONS]
    texts += [f"the shape {joint} a {kind}" for kind in KINDS for joint in RELATIONS]
    texts += [f"it is a {kind}" for kind in KINDS] + [NOT_HERE] * len(KINDS)
    return location_tokenizer(texts, locations)


class SceneRows:
    """Row i: of scene i of a seed, one of the mixture's tasks; a source of random access for `token_stream`.

    Args:
        count: rows that there are. length: tokens of a row.

    >>> rows = SceneRows(2, 0, Layout(scene_tokenizer(PatchLocations(8)), PatchLocations(8), 4), 64)
    >>> sorted(rows[0]), rows[1]["tokens"].shape
    (['images', 'lengths', 'places', 'predicted', 'tokens'], (64,))
    """

    def __init__(
        self,
        count: int,
        seed: int,
        layout: Layout,
        length: int,
        scenes: SceneConfig = SceneConfig(),
        mixture: Mixture = Mixture(),
    ) -> None:
        self._count, self._seed, self._layout, self._length = count, seed, layout, length
        self._scenes, self._mixture = scenes, mixture

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:  # grain writes it into messages
        return f"SceneRows(count={self._count}, seed={self._seed})"

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        number = index.__index__()
        if not 0 <= number < self._count:
            raise IndexError(number)
        random = np.random.Generator(np.random.PCG64([self._seed, number, 2]))
        scene = draw_scene(self._seed, number, self._scenes)
        example = scene_example(scene, random, self._layout.locations, self._mixture)
        rows = image_rows([example], self._layout, self._length)
        fields = {name: getattr(rows, name) for name in ("tokens", "lengths", "images", "places", "predicted")}
        return {name: value[0] for name, value in fields.items()}


def rows_of(batch: Mapping[str, Any]) -> ImageRows:
    """A batch of the stream as rows."""
    return ImageRows(**batch)


def scene_example(scene: Scene, random: np.random.Generator, locations: PatchLocations, mixture: Mixture) -> Example:
    """One of the mixture's tasks for a scene, and of it a random one."""
    tasks = [field.name for field in dataclasses.fields(mixture)]
    shares = np.array(dataclasses.astuple(mixture))
    drawn = int(np.searchsorted(np.cumsum(shares), random.random(), side="right"))
    task = tasks[drawn] if drawn < len(tasks) else "caption"
    number = int(random.integers(len(scene.kinds)))
    box = scene.boxes[number : number + 1]
    if task == "find":
        found = list(expressions(scene))
        if found and random.random() < 0.5:
            one = found[int(random.integers(len(found)))]
            return grounded(scene.image, one.text, one.spans[0].boxes, locations)
        return grounded(scene.image, f"a {scene.kinds[number]}", box, locations)
    if task == "name":
        return referred(scene.image, box, f"a {scene.kinds[number]}", locations)
    if task == "absent":
        kinds = absent_kinds(scene)
        return grounded(scene.image, f"a {kinds[int(random.integers(len(kinds)))]}", None, locations)
    found = caption(scene, random.permutation(len(scene.kinds)).tolist())
    return described(scene.image, found.text, () if task == "plain" else found.spans, locations)
