"""Images from files, and resize, letterbox and crop that take boxes along."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from pmpjax.multimodal.boxes import checked

_GROUND = (255, 255, 255)
_LEAST_AREA = 0.2  # as in Kosmos-2's loader: a box of which less is left after a crop is dropped
_PIXELS = 100_000_000


class Placement(NamedTuple):
    """Where the points of an image went: new = scale old + shift, both from 0 to 1.

    Fields:
        scale, shift: (x, y).

    >>> half = Placement((0.5, 1.0), (0.25, 0.0))
    >>> half.forward(np.array([[0.0, 0.0, 1.0, 0.5]]))[0].tolist()
    [[0.25, 0.0, 0.75, 0.5]]
    >>> half.back(np.array([[0.25, 0.0, 0.75, 0.5]])).tolist()
    [[0.0, 0.0, 1.0, 0.5]]
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def forward(
        self, boxes: Float[np.ndarray, "n 4"], least: float = _LEAST_AREA
    ) -> tuple[Float[np.ndarray, "k 4"], Bool[np.ndarray, " n"]]:
        """Boxes of the new image, cut at its edges, and which of the old ones they are.

        Args:
            least: share of a box's area that must be left of it.
        """
        moved = checked(boxes) * np.tile(self.scale, 2) + np.tile(self.shift, 2)
        cut = np.clip(moved, 0.0, 1.0)
        left = np.prod(np.maximum(cut[:, 2:] - cut[:, :2], 0), axis=1)
        kept = (left > 0) & (left >= least * np.prod(moved[:, 2:] - moved[:, :2], axis=1))
        return cut[kept], kept

    def back(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes of the old image, cut at its edges: one that lies in what was added around it becomes empty."""
        return np.clip((boxes - np.tile(self.shift, 2)) / np.tile(self.scale, 2), 0.0, 1.0)


def resize(image: UInt8[np.ndarray, "y x 3"], size: int) -> tuple[UInt8[np.ndarray, "s s 3"], Placement]:
    """The whole image, stretched to a square: what Kosmos-2's evaluation does. Boxes from 0 to 1 stay as they are."""
    if image.shape[:2] == (size, size):
        return image, Placement()
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)), Placement()


def letterbox(
    image: UInt8[np.ndarray, "y x 3"], size: int, ground: tuple[int, int, int] = _GROUND
) -> tuple[UInt8[np.ndarray, "s s 3"], Placement]:
    """The whole image, its proportions kept, in the middle of a square of one colour.

    >>> square, placement = letterbox(np.zeros((2, 4, 3), np.uint8), 8)
    >>> square[:, 0, 0].tolist(), placement.scale, placement.shift
    ([255, 255, 0, 0, 0, 0, 255, 255], (1.0, 0.5), (0.0, 0.25))
    """
    height, width = image.shape[:2]
    factor = size / max(height, width)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    left, top = (size - new[0]) // 2, (size - new[1]) // 2
    square = np.empty((size, size, 3), np.uint8)
    square[:] = ground
    small = Image.fromarray(image).resize(new, Image.Resampling.BICUBIC)
    square[top : top + new[1], left : left + new[0]] = np.asarray(small)
    return square, Placement((new[0] / size, new[1] / size), (left / size, top / size))


def crop(
    image: UInt8[np.ndarray, "y x 3"], box: tuple[int, int, int, int]
) -> tuple[UInt8[np.ndarray, "h w 3"], Placement]:
    """The pixels in `box`, (left, top, right, bottom); ValueError where it is not inside the image.

    >>> crop(np.zeros((4, 8, 3), np.uint8), (2, 0, 6, 4))[1]
    Placement(scale=(2.0, 1.0), shift=(-0.5, 0.0))
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"the crop {box} is not inside an image of {width} x {height} pixels; correct it")
    new = (right - left, bottom - top)
    placement = Placement((width / new[0], height / new[1]), (-left / new[0], -top / new[1]))
    return image[top:bottom, left:right], placement


def centre_crop(image: UInt8[np.ndarray, "y x 3"]) -> tuple[UInt8[np.ndarray, "s s 3"], Placement]:
    """The largest square in the middle."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return crop(image, (left, top, left + side, top + side))


def read_image(path: Path | str, most: int = _PIXELS) -> UInt8[np.ndarray, "y x 3"]:
    """The pixels of any file that pillow opens, as red, green and blue, turned upright as its EXIF orientation asks.

    Grey, palette and CMYK images are converted; what is transparent shows white.

    Args:
        most: pixels; checked before they are decoded, so that a small file that unpacks to a huge image is refused.

    Raises ValueError: no such file, no image, cut off, or too many pixels; it names the file.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `most` decides
            with Image.open(path) as opened:
                if opened.width * opened.height > most:
                    sides = f"{opened.width} x {opened.height} pixels"
                    raise ValueError(f"{path} has {sides}, expected at most {most:,}; make it smaller")
                upright = _eight_bits(ImageOps.exif_transpose(opened), path)
                if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
                    cutout = upright.convert("RGBA")
                    ground = Image.new("RGBA", cutout.size, (*_GROUND, 255))
                    upright = Image.alpha_composite(ground, cutout)
                return np.asarray(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that can be read; convert it to PNG or JPEG") from error
    except Image.DecompressionBombError as error:  # pillow's own limit, whatever `most`
        raise ValueError(f"{path} has too many pixels ({error}); make it smaller") from error
    except (OSError, SyntaxError) as error:  # pillow's for cut off and broken files
        raise ValueError(f"{path} cannot be read ({error}); look whether it is there and whole") from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """16 bits of grey as 8; pillow's own conversion would clip them."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{path} has pixels of an unknown range (mode {image.mode}); convert it to 8 bits")
    return image
