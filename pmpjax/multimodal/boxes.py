"""Boxes as numbers of any convention, and as location tokens: the continuous control of Kosmos-2, quantised."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

_SCALES = {"unit": 1.0, "thousand": 999.0}


@dataclasses.dataclass(frozen=True)
class BoxCodec:
    """How a file or a model writes a box; here boxes are (left, top, right, bottom) from 0 to 1, y downwards.

    Attributes:
        order: of the four numbers.
        scale: "unit" (0 to 1), "thousand" (0 to 999), or "pixels", which need the image's size.

    >>> codec = BoxCodec("yxyx", "pixels")
    >>> codec.read([[20, 10, 60, 50]], size=(100, 80)).tolist()
    [[0.1, 0.25, 0.5, 0.75]]
    >>> codec.write(codec.read([[20, 10, 60, 50]], size=(100, 80)), size=(100, 80)).tolist()
    [[20.0, 10.0, 60.0, 50.0]]
    """

    order: Literal["xyxy", "yxyx"] = "xyxy"
    scale: Literal["unit", "thousand", "pixels"] = "unit"

    def read(self, numbers: object, size: tuple[int, int] | None = None) -> Float[np.ndarray, "n 4"]:
        """Boxes [N, 4] of `numbers` [N, 4] in this convention.

        Args:
            size: (width, height) in pixels; for "pixels".

        Raises ValueError with the rows that are not boxes: outside the image, reversed, empty, or not numbers.
        """
        found = np.asarray(numbers, float)
        if found.size == 0:
            return np.zeros((0, 4))
        if found.ndim != 2 or found.shape[1] != 4:
            raise ValueError(f"boxes have shape {list(found.shape)}, expected [N, 4]; give a list of four numbers each")
        return checked(_swapped(found / self._side(size), self.order), self.scale)

    def write(self, boxes: Float[np.ndarray, "n 4"], size: tuple[int, int] | None = None) -> Float[np.ndarray, "n 4"]:
        """Numbers of boxes in this convention: not rounded, so that `read` gives the boxes back to rounding."""
        return _swapped(checked(boxes), self.order) * self._side(size)

    def _side(self, size: tuple[int, int] | None) -> np.ndarray:
        if self.scale != "pixels":
            return np.full(4, _SCALES[self.scale])
        if size is None or min(size) < 1:
            raise ValueError(f"boxes in pixels need the image's size (width, height), found {size}; give it")
        sides = np.asarray([*size, *size], float)
        return _swapped(sides[None], self.order)[0]


def _swapped(boxes: np.ndarray, order: str) -> np.ndarray:
    return boxes if order == "xyxy" else boxes[:, [1, 0, 3, 2]]


def checked(boxes: Float[np.ndarray, "n 4"], scale: str = "unit") -> Float[np.ndarray, "n 4"]:
    """The same boxes, (left, top, right, bottom) from 0 to 1; ValueError lists rows that are none, by what is wrong.

    >>> checked(np.array([[0.1, 0.2, 0.1, 0.3], [0.0, 0.0, 1.0, 1.0]]))
    Traceback (most recent call last):
        ...
    ValueError: 1 of 2 boxes cannot be: 1 empty (0). Drop them or correct them
    """
    finite = np.all(np.isfinite(boxes), axis=1)
    outside = finite & np.any((boxes < 0) | (boxes > 1), axis=1)
    extent = np.where(finite[:, None], boxes[:, 2:] - boxes[:, :2], 1.0)
    reverse = (extent < 0).any(axis=1)
    empty = ~reverse & (extent == 0).any(axis=1)
    kinds = {"not numbers": ~finite, "outside the image": outside, "reversed": reverse, "empty": empty}
    listed = [f"{rows.sum()} {kind} ({_some(rows)})" for kind, rows in kinds.items() if rows.any()]
    if not listed:
        return boxes
    hint = "Drop them or correct them"
    if scale == "unit" and np.any(boxes[outside] > 1):
        hint += ': numbers over 1 are read with scale "thousand" or "pixels"'
    wrong = ~finite | outside | reverse | empty
    raise ValueError(f"{wrong.sum()} of {len(boxes)} boxes cannot be: {'; '.join(listed)}. {hint}")


def _some(rows: Any) -> str:
    numbers = np.flatnonzero(rows)
    return ", ".join(map(str, numbers[:6])) + (", ..." if len(numbers) > 6 else "")


@runtime_checkable
class Locations(Protocol):
    """A box as location tokens.

    Attributes:
        tokens: of a box.
        size: location tokens that there are.
    """

    @property
    def tokens(self) -> int: ...

    @property
    def size(self) -> int: ...

    def encode(self, boxes: Float[np.ndarray, "n 4"]) -> Int[np.ndarray, "n k"]:
        """Numbers [N, tokens] of location tokens, 0 to size - 1."""
        ...

    def decode(self, numbers: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n 4"]:
        """Boxes [N, 4]; ValueError for numbers that there are not."""
        ...


class PatchLocations(NamedTuple):
    """Kosmos-2's two tokens: the cells of the upper left and the lower right corner, c = row P + column.

    A box's edge that lies between two cells belongs to the one inside. Decoded are the cells' centres, and for boxes of
    one row or column of cells their outer edges (transformers' and unilm's rule). No coordinate moves by more than half
    a cell, 1 / (2 P); in a row or column by less than one, 1 / P.

    >>> codes = PatchLocations().encode(np.array([[0.3906, 0.0469, 0.9843, 0.8281], [0.5, 0.5, 0.53125, 0.75]]))
    >>> codes.tolist(), PatchLocations().decode(codes)[1].tolist()
    ([[44, 863], [528, 752]], [0.5, 0.5, 0.53125, 0.75])
    """

    side: int = 32

    @property
    def tokens(self) -> int:
        """Two."""
        return 2

    @property
    def size(self) -> int:
        """P^2."""
        return self.side**2

    def encode(self, boxes: Float[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 2"]:
        """Numbers of the two corners' cells; ValueError for what is no box."""
        cells = checked(boxes) * self.side
        upper, lower = np.floor(cells[:, :2]).astype(int), np.ceil(cells[:, 2:] - 1).astype(int)
        corners = np.stack([upper, np.maximum(lower, upper)], axis=1)
        return corners[..., 1] * self.side + corners[..., 0]

    def decode(self, numbers: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 4"]:
        """Boxes of the cells; a second corner above or left of the first gives a box that is reversed."""
        _demand_numbers(numbers, self.size, self.tokens)
        corners = np.stack([numbers % self.side, numbers // self.side], axis=-1)
        flat = (corners[:, 0] == corners[:, 1]).any(axis=1)[:, None]
        upper = corners[:, 0] + np.where(flat, 0.0, 0.5)
        lower = corners[:, 1] + np.where(flat, 1.0, 0.5)
        return np.concatenate([upper, lower], axis=1) / self.side


class CoordinateLocations(NamedTuple):
    """PaliGemma's four tokens, one a coordinate, top first: the nearest k / bins, k < bins.

    No coordinate moves by more than 1 / (2 bins), those over 1 - 1 / (2 bins) by up to 1 / bins. A box thinner than
    half a bin comes back empty.

    >>> codes = CoordinateLocations().encode(np.array([[0.25, 0.5, 0.75, 1.0]]))
    >>> codes.tolist(), CoordinateLocations().decode(codes).tolist()
    ([[512, 256, 1023, 768]], [[0.25, 0.5, 0.75, 0.9990234375]])
    """

    bins: int = 1_024

    @property
    def tokens(self) -> int:
        """Four."""
        return 4

    @property
    def size(self) -> int:
        """As many as bins: all coordinates share them."""
        return self.bins

    def encode(self, boxes: Float[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
        """Numbers of (top, left, bottom, right); ValueError for what is no box."""
        nearest = np.rint(_swapped(checked(boxes), "yxyx") * self.bins)
        return np.minimum(nearest, self.bins - 1).astype(int)

    def decode(self, numbers: Int[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes of the four coordinates."""
        _demand_numbers(numbers, self.size, self.tokens)
        return _swapped(numbers / self.bins, "yxyx")


def _demand_numbers(numbers: np.ndarray, size: int, tokens: int) -> None:
    if numbers.ndim != 2 or numbers.shape[1] != tokens:
        raise ValueError(f"location tokens have shape {list(numbers.shape)}, expected [N, {tokens}]: {tokens} a box")
    wrong = np.any((numbers < 0) | (numbers >= size), axis=1)
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} of {len(numbers)} boxes have location tokens outside 0 to {size - 1} (rows "
            f"{_some(wrong)}); look for a grid of another size"
        )


def box_iou(first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """area(a and b) / area(a or b) of every pair; 0 where a box is empty or reversed.

    >>> box_iou(np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]])).tolist()
    [[0.5, 0.0]]
    """
    least = np.maximum(first[:, None, :2], second[None, :, :2])
    most = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.prod(np.maximum(most - least, 0), axis=-1)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1) for boxes in (first, second)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.divide(both, either, out=np.zeros_like(both), where=(both > 0) & (either > 0))


def largest_error(locations: Locations) -> float:
    """The most by which a coordinate of a box may move on the way to tokens and back."""
    return 1.0 / (locations.size if locations.tokens == 4 else math.isqrt(locations.size))
