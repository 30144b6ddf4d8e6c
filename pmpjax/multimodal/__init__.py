"""Kosmos-2 and Kosmos-1: boxes as tokens, and text that they are written into."""

from pmpjax.multimodal.boxes import (
    BoxCodec,
    CoordinateLocations,
    Locations,
    PatchLocations,
    box_iou,
    checked,
    largest_error,
)
from pmpjax.multimodal.markup import GROUNDING, Grounded, Span, read_markup, write_markup

__all__ = [
    "GROUNDING",
    "BoxCodec",
    "CoordinateLocations",
    "Grounded",
    "Locations",
    "PatchLocations",
    "Span",
    "box_iou",
    "checked",
    "largest_error",
    "read_markup",
    "write_markup",
]
