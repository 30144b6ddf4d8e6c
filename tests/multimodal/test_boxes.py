"""Boxes: every convention there and back, location tokens as transformers computes them, and what is no box."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pmpjax.multimodal import BoxCodec, CoordinateLocations, PatchLocations, box_iou, largest_error

GOLDEN = Path(__file__).parent / "golden"


def boxes_of(seed, count):
    return np.sort(np.random.default_rng(seed).uniform(size=(count, 2, 2)), axis=1).reshape(count, 4)


def test_patches_are_those_of_transformers():
    expected = load_file(GOLDEN / "boxes.safetensors")
    np.testing.assert_array_equal(PatchLocations().encode(expected["boxes"]), expected["codes"])
    np.testing.assert_array_equal(PatchLocations().decode(expected["codes"]), expected["decoded"])


@pytest.mark.parametrize("order", ["xyxy", "yxyx"])
@pytest.mark.parametrize("scale", ["unit", "thousand", "pixels"])
def test_conventions_there_and_back(order, scale):
    boxes, codec, size = boxes_of(0, 500), BoxCodec(order, scale), (640, 480)
    numbers = codec.write(boxes, size)
    np.testing.assert_allclose(codec.read(numbers, size), boxes, atol=1e-15)
    sides = {"unit": (1, 1), "thousand": (999, 999), "pixels": size}[scale]
    columns = [0, 1, 2, 3] if order == "xyxy" else [1, 0, 3, 2]
    np.testing.assert_allclose(numbers[:, columns], boxes * [*sides, *sides], rtol=1e-15)


@pytest.mark.parametrize("locations", [PatchLocations(), PatchLocations(8), CoordinateLocations()])
def test_the_error_of_location_tokens(locations):
    boxes = boxes_of(1, 5_000)
    boxes[:3] = [[0, 0, 1, 1], [0, 0.5, 0.5, 1], [0.999, 0.999, 1, 1]]
    codes = locations.encode(boxes)
    assert codes.shape == (5_000, locations.tokens) and codes.min() >= 0 and codes.max() < locations.size
    moved = np.abs(locations.decode(codes) - boxes).max(axis=1)
    assert moved.max() <= largest_error(locations) + 1e-12
    if isinstance(locations, PatchLocations):
        flat = (codes[:, 0] % locations.side == codes[:, 1] % locations.side) | (
            codes[:, 0] // locations.side == codes[:, 1] // locations.side
        )
        assert flat.any() and moved[~flat].max() <= 0.5 / locations.side + 1e-12
    else:
        assert moved[boxes.max(axis=1) < 1 - 0.5 / locations.bins].max() <= 0.5 / locations.bins + 1e-12


def test_small_squares_and_a_grid_of_32():
    """The table of the mission's notes: mean IoU of squares of 1, 2 and 3 cells, drawn anywhere."""
    draw = np.random.default_rng(0)
    for cells, mean, above in ((1, 0.41, 0.24), (2, 0.63, 0.86), (3, 0.73, 1.0)):
        corner = draw.uniform(size=(4_000, 2)) * (1 - cells / 32)
        boxes = np.concatenate([corner, corner + cells / 32], axis=1)
        back = PatchLocations().decode(PatchLocations().encode(boxes))
        found = np.asarray([box_iou(a[None], b[None])[0, 0] for a, b in zip(boxes, back, strict=True)])
        assert abs(found.mean() - mean) < 0.02 and abs((found >= 0.5).mean() - above) < 0.03


def test_edges_between_cells_belong_to_the_box_inside():
    boxes = np.array([[0.25, 0.5, 0.28125, 0.53125]])  # one cell exactly
    codes = PatchLocations().encode(boxes)
    assert codes[0, 0] == codes[0, 1] == 16 * 32 + 8
    np.testing.assert_array_equal(PatchLocations().decode(codes), boxes)


def test_iou_by_counting_cells():
    draw, grid = np.random.default_rng(3), (np.arange(20) + 0.5) / 20
    corners = np.sort(draw.integers(0, 21, size=(12, 2, 2)), axis=1).reshape(12, 4)
    inside = [
        ((grid[:, None] > box[1]) & (grid[:, None] < box[3]) & (grid > box[0]) & (grid < box[2]))
        for box in corners / 20
    ]
    expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in inside] for a in inside]
    np.testing.assert_allclose(box_iou(corners / 20, corners / 20), expected, atol=1e-9)
    reversed_box = np.array([[0.8, 0.8, 0.2, 0.2]])
    assert box_iou(reversed_box, np.array([[0.0, 0.0, 1.0, 1.0]])) == 0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([[0, 0, np.nan, 1]], r"1 of 1 boxes cannot be: 1 not numbers \(0\)"),
        ([[0, 0, 1, 1], [0.5, 0, 0.2, 1]], r"1 of 2 boxes cannot be: 1 reversed \(1\)"),
        ([[0, 0, 0, 1]], r"1 empty \(0\)"),
        ([[0, 0, 30, 40]], r'1 outside the image \(0\).*read with scale "thousand" or "pixels"'),
        ([[-0.1, 0, 0.3, 0.4]], r"1 outside the image \(0\)\. Drop them or correct them$"),
        ([0, 0, 1, 1], r"boxes have shape \[4\], expected \[N, 4\]"),
    ],
)
def test_what_is_no_box_is_listed(numbers, message):
    with pytest.raises(ValueError, match=message):
        BoxCodec().read(numbers)
    if np.ndim(numbers) == 2:
        for locations in (PatchLocations(), CoordinateLocations()):
            with pytest.raises(ValueError, match=r"boxes cannot be"):
                locations.encode(np.asarray(numbers, float))


def test_sizes_and_tokens_are_named():
    with pytest.raises(ValueError, match=r"need the image's size \(width, height\), found None"):
        BoxCodec(scale="pixels").read([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"outside 0 to 1023 \(rows 1\); look for a grid"):
        PatchLocations().decode(np.array([[0, 1], [3, 1024]]))
    with pytest.raises(ValueError, match=r"shape \[1, 4\], expected \[N, 2\]"):
        inspect.unwrap(PatchLocations.decode)(PatchLocations(), np.zeros((1, 4), int))  # beartype would speak first
    assert BoxCodec().read(np.zeros((0, 4))).shape == (0, 4)


def test_an_image_may_have_no_box():
    assert BoxCodec().read([]).shape == (0, 4)
