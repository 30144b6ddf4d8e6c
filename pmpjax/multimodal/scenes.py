"""Generated scenes: coloured shapes on a plain ground, with exact boxes, captions and referring expressions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pmpjax.multimodal.markup import Span

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 220),
    "yellow": (240, 210, 30),
    "white": (245, 245, 245),
    "purple": (150, 60, 190),
}
SHAPES = ("square", "disc", "triangle", "diamond", "cross")

_GROUND = (70, 70, 70)
_TRIES = 50


class Kind(NamedTuple):
    """What an object is: a colour and a shape.

    >>> str(Kind("red", "disc"))
    'red disc'
    """

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


KINDS = tuple(Kind(colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT = tuple(Kind(colour, shape) for colour, shape in zip(COLOURS, SHAPES, strict=False))
"""Compositions that no training scene has, though each colour and each shape is there."""


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """What scenes are like.

    Attributes:
        size: pixels of an image's side.
        least, most: pixels of an object's side.
        objects: at most in a scene; at least one, and each of another kind.
    """

    size: int = 32
    least: int = 8
    most: int = 14
    objects: int = 3

    def __post_init__(self) -> None:
        if not 3 <= self.least <= self.most <= self.size // 2:
            raise ValueError(
                f"objects have sides of {self.least} to {self.most} pixels in images of {self.size}; expected 3 <= "
                f"least <= most <= {self.size // 2}, half of the image"
            )
        if not 1 <= self.objects <= 4:
            raise ValueError(f"objects is {self.objects}, expected 1 to 4: more do not fit without touching")


class Scene(NamedTuple):
    """An image and what is in it.

    Fields:
        image: [S, S, 3].
        kinds: of the objects, all different.
        boxes: [n, 4] (left, top, right, bottom) from 0 to 1, the edges of the outermost pixels: exact.
    """

    image: UInt8[np.ndarray, "s s 3"]
    kinds: Sequence[Kind]
    boxes: Float[np.ndarray, "n 4"]


class Described(NamedTuple):
    """A text about a scene, the objects that it names, and where.

    Fields:
        text: of the caption or the expression.
        spans: phrases with their boxes, in the text's order.
        objects: the number in the scene of what each span names.
    """

    text: str
    spans: Sequence[Span]
    objects: Sequence[int]


def draw_scene(seed: int, index: int, config: SceneConfig = SceneConfig(), held_out: bool = False) -> Scene:
    """Scene number `index` of a seed; equal arguments give equal bytes.

    Args:
        held_out: the first object is of a held-out kind, the others of any; else none is.

    >>> scene = draw_scene(0, 1)
    >>> scene.image.shape, len(scene.kinds) == len(scene.boxes), set(scene.kinds).isdisjoint(HELD_OUT)
    ((32, 32, 3), True, True)
    """
    random = np.random.Generator(np.random.PCG64([seed, index, int(held_out)]))
    count = int(random.integers(1, config.objects + 1))
    known = [kind for kind in KINDS if kind not in HELD_OUT]
    kinds = [known[i] for i in random.permutation(len(known))[:count]]
    if held_out:
        kinds[0] = HELD_OUT[int(random.integers(len(HELD_OUT)))]
    image = np.full((config.size, config.size, 3), _GROUND, np.uint8)
    places = _places(random, count, config)
    for kind, (left, top, side) in zip(kinds, places, strict=False):
        part = image[top : top + side, left : left + side]
        part[shape_mask(kind.shape, side)] = COLOURS[kind.colour]
    boxes = np.array([[x, y, x + side, y + side] for x, y, side in places], float) / config.size
    return Scene(image, tuple(kinds[: len(places)]), boxes)


def shape_mask(shape: str, side: int) -> Bool[np.ndarray, "s s"]:
    """The pixels of a shape in its box: each of the box's four edges has one.

    >>> shape_mask("cross", 3).astype(int).tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    centre = (side - 1) / 2
    y, x = np.mgrid[:side, :side]
    across, down = np.abs(x - centre), np.abs(y - centre)
    if shape == "square":
        return np.ones((side, side), bool)
    if shape == "disc":
        return across**2 + down**2 <= (side / 2) ** 2
    if shape == "triangle":
        return across <= (y + 1) / 2
    if shape == "diamond":
        return across + down <= side / 2
    if shape == "cross":
        return (across <= side / 6) | (down <= side / 6)
    raise ValueError(f"no shape {shape!r}; known ones: {', '.join(SHAPES)}")


def _places(random: np.random.Generator, count: int, config: SceneConfig) -> list[tuple[int, int, int]]:
    """(left, top, side) of objects that leave a pixel between them; one that finds no room is left out."""
    places: list[tuple[int, int, int]] = []
    for _ in range(count):
        for _ in range(_TRIES):
            side = int(random.integers(config.least, config.most + 1))
            left, top = (int(at) for at in random.integers(0, config.size - side + 1, 2))
            if all(left > x + s or x > left + side or top > y + s or y > top + side for x, y, s in places):
                places.append((left, top, side))
                break
    return places


def relation(first: Float[np.ndarray, "4"], second: Float[np.ndarray, "4"]) -> str:
    """Where the first box is, seen from the second: by the larger distance of their centres.

    >>> relation(np.array([0.0, 0.4, 0.2, 0.6]), np.array([0.5, 0.3, 0.7, 0.5]))
    'left of'
    """
    across, down = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def caption(scene: Scene, order: Sequence[int]) -> Described:
    """ "a red square above a blue disc and a green cross": the objects in an order, the second and third joined.

    >>> caption(draw_scene(0, 4), [0]).text
    'a white disc'
    """
    joints = [""]
    if len(order) > 1:
        joints.append(f" {relation(scene.boxes[order[0]], scene.boxes[order[1]])} ")
    joints += [" and "] * (len(order) - len(joints))
    text, spans = "", []
    for joint, number in zip(joints, order, strict=True):
        begin = len(text) + len(joint)
        text += f"{joint}a {scene.kinds[number]}"
        spans.append(Span(begin, len(text), scene.boxes[number : number + 1]))
    return Described(text, spans, tuple(order))


def expressions(scene: Scene) -> Iterator[Described]:
    """Every expression "the shape left of a blue disc" that only one object fits: its box is the span's.

    >>> next(expressions(draw_scene(0, 4))).text.split(" a ")[0] in ("the shape left of", "the shape below")
    True
    """
    for anchor, kind in enumerate(scene.kinds):
        seen = [
            "" if number == anchor else relation(box, scene.boxes[anchor]) for number, box in enumerate(scene.boxes)
        ]
        for number, found in enumerate(seen):
            if found and seen.count(found) == 1:
                text = f"the shape {found} a {kind}"
                yield Described(text, [Span(0, len(text), scene.boxes[number : number + 1])], (number,))


def absent_kinds(scene: Scene) -> list[Kind]:
    """The kinds of training scenes that this one does not have, in their order: what a model must not find."""
    return [kind for kind in KINDS if kind not in scene.kinds and kind not in HELD_OUT]
