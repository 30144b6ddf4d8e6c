"""Images that are hard to read, and boxes that follow resize, letterbox and crop: against pixels."""

import numpy as np
import pytest
from PIL import Image

from pmpjax.multimodal.geometry import Placement, centre_crop, crop, letterbox, read_image, resize

BOXES = np.array([[0.25, 0.25, 0.5, 0.75]])


def patterned(width=16, height=8):
    """Black, with a white rectangle where BOXES says."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : 3 * height // 4, width // 4 : width // 2] = 255
    return image


def bounds(image, least=128):
    rows, columns = np.nonzero(image[..., 0] >= least)
    height, width = image.shape[:2]
    return [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]


@pytest.mark.parametrize("operation", [lambda image: resize(image, 32), lambda image: letterbox(image, 32, (0, 0, 0))])
def test_boxes_follow_the_pixels(operation):
    image, placement = operation(patterned())
    moved, kept = placement.forward(BOXES)
    assert image.shape == (32, 32, 3) and kept.all()
    np.testing.assert_allclose(moved[0], bounds(image), atol=1 / 32)
    np.testing.assert_allclose(placement.back(moved), BOXES, atol=1e-12)


def test_a_crop_cuts_boxes_and_drops_those_of_which_little_is_left():
    image, placement = crop(patterned(), (5, 0, 13, 8))
    moved, kept = placement.forward(np.concatenate([BOXES, [[0.0, 0.0, 0.4, 1.0], [0.9, 0.0, 1.0, 1.0]]]))
    assert kept.tolist() == [True, True, False]
    np.testing.assert_allclose(moved[0], bounds(image))
    assert placement.forward(np.array([[0.0, 0.0, 0.35, 1.0]]), least=0.2)[1].tolist() == [False]
    square, _ = centre_crop(patterned())
    np.testing.assert_array_equal(square, patterned()[:, 4:12])


def test_a_box_in_the_border_of_a_letterbox_comes_back_empty():
    _, placement = letterbox(patterned(), 32)
    left, top, right, bottom = placement.back(np.array([[0.0, 0.0, 1.0, 0.2]]))[0]
    assert top == bottom == 0.0 and (left, right) == (0.0, 1.0)


@pytest.mark.parametrize("box", [(0, 0, 17, 8), (-1, 0, 4, 4), (4, 4, 4, 8)])
def test_crops_outside_are_refused(box):
    with pytest.raises(ValueError, match="16 x 8"):
        crop(patterned(), box)


def test_boxes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="reversed"):
        Placement().forward(np.array([[0.5, 0.0, 0.2, 1.0]]))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_any_mode_is_read_as_colours(tmp_path, mode):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    Image.fromarray(patterned()).convert(mode).save(path)
    found = read_image(path)
    assert found.shape == (8, 16, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), patterned(), atol=8)


def test_what_is_transparent_shows_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png")
    assert found[0].max() == 0 and found[1:].min() == 255


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(patterned()).save(tmp_path / "image.png", exif=exif)
    assert read_image(tmp_path / "image.png").shape == (16, 8, 3)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is no image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")
    Image.fromarray(patterned()).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"16 x 8 pixels, expected at most 100"):
        read_image(tmp_path / "large.png", most=100)


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_image(tmp_path / "grey.png")[..., 0], grey / 257, atol=1.0)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="unknown range"):
        read_image(tmp_path / "float.tiff")
