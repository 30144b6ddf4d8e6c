"""Rows of images and marked text: which tokens carry loss, what a tokenizer must have, what is refused."""

import numpy as np
import pytest

from pmpjax.data.tokenizer import train_tokenizer
from pmpjax.models.kosmos import image_label_mask
from pmpjax.multimodal import PatchLocations, Span, read_markup
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

LOCATIONS = PatchLocations(4)
BOX = np.array([[0.25, 0.0, 1.0, 0.5]])
IMAGE = np.full((8, 8, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def layout():
    return Layout(location_tokenizer(["a red disc is not here"] * 3, LOCATIONS, 280), LOCATIONS, latents=3)


def labelled(layout, example, ended=True):
    """The text of the tokens that the loss is made of."""
    rows = image_rows([example], layout, ended=ended)
    kept = np.asarray(image_label_mask(rows))[0].astype(bool)
    return layout.tokenizer.decode(rows.tokens[0, 1:][kept].tolist(), skip_special_tokens=False)


def test_the_loss_is_of_text_and_locations_and_of_no_image_place(layout):
    example = described(IMAGE, "a red disc", [Span(2, 10, BOX)], LOCATIONS)
    assert labelled(layout, example) == f"{example.answer}<|end|>"
    rows = image_rows([example], layout)
    assert layout.tokenizer.id_to_token(int(rows.tokens[0, 5])) == "</image>"
    assert np.flatnonzero(rows.places[0]).tolist() == [2, 3, 4]


def test_what_is_given_carries_no_loss(layout):
    example = grounded(IMAGE, "a red disc", BOX, LOCATIONS)
    assert labelled(layout, example) == "<object><patch_index_0001><patch_index_0007></object><|end|>"
    assert labelled(layout, grounded(IMAGE, "a red disc", None, LOCATIONS)) == f"{NOT_HERE}<|end|>"
    assert labelled(layout, referred(IMAGE, BOX, "a red disc", LOCATIONS)) == " a red disc<|end|>"
    assert labelled(layout, example._replace(answer=""), ended=False) == ""


def test_grounding_is_switched_by_spans(layout):
    assert described(IMAGE, "a red disc", [], LOCATIONS) == Example(IMAGE, "", "a red disc")
    assert described(IMAGE, "a disc", [Span(0, 6, BOX)], LOCATIONS).prompt == "<grounding>"


def test_text_and_boxes_come_back_from_the_tokens(layout):
    example = described(IMAGE, "see a red disc é here", [Span(4, 14, BOX)], LOCATIONS)
    row = image_rows([example], layout)
    found = read_markup(layout.text(row.tokens[0, 7:]), LOCATIONS)
    assert found.text == "see a red disc é here" and not found.problems
    assert (found.spans[0].begin, found.spans[0].end) == (4, 14)
    np.testing.assert_array_equal(found.spans[0].boxes, LOCATIONS.decode(LOCATIONS.encode(BOX)))


def test_rows_of_different_lengths_are_padded_to_one(layout):
    rows = image_rows([Example(IMAGE, "", "a"), Example(IMAGE, "", "a red disc")], layout, 12)
    assert rows.tokens.shape == (2, 12) and rows.images.shape == (2, 1, 8, 8, 3)
    assert rows.lengths.tolist() == [8, 10] and not rows.predicted[0, 8:].any()
    np.testing.assert_allclose(rows.images, 2.0)  # white: (1 - 0.5) / 0.25


def test_a_row_over_the_length_is_named(layout):
    with pytest.raises(ValueError, match="row 1 has 10 tokens, expected at most 9: 'a red disc'"):
        image_rows([Example(IMAGE, "", "a"), Example(IMAGE, "", "a red disc")], layout, 9)


def test_no_example_is_said(layout):
    with pytest.raises(ValueError, match="no example"):
        image_rows([], layout)


@pytest.mark.parametrize("phrase", ["", "  ", "a <object> trick"])
def test_phrases_that_are_none_are_refused(phrase):
    with pytest.raises(ValueError, match=r"empty|markup"):
        grounded(IMAGE, phrase, None, LOCATIONS)


def test_a_tokenizer_without_markup_or_with_too_few_locations_is_refused(layout):
    with pytest.raises(ValueError, match="no <s>, <image>"):
        Layout(train_tokenizer(["a"], 257))
    with pytest.raises(ValueError, match="no <patch_index_0063>"):
        Layout(layout.tokenizer, PatchLocations(8))
