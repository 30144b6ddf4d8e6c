"""Marked-up text: as transformers reads it, there and back in both dialects, and broken markup."""

import json
from pathlib import Path

import numpy as np
import pytest

from pmpjax.multimodal import PatchLocations, Span, read_markup, write_markup

GOLDEN = Path(__file__).parent / "golden"
BOX = np.array([[0.1, 0.2, 0.5, 0.6]])


def test_transformers_reads_the_same():
    for marked, text, entities in json.loads((GOLDEN / "markup.json").read_text(encoding="utf-8")):
        found = read_markup(marked)
        assert found.text == text
        spans = [span for span in found.spans if span.end > span.begin]
        assert [[span.begin, span.end, span.boxes.tolist()] for span in spans] == entities


@pytest.mark.parametrize("dialect", ["code", "paper"])
def test_there_and_back(dialect):
    draw, words = np.random.default_rng(0), "one small red square above a blue disc , é and more".split()
    for _ in range(100):
        text = " ".join(words)
        ends = np.sort(draw.choice(len(words), 6, replace=False))
        starts = [len(" ".join([*words[:index], ""])) for index in range(len(words))]
        spans = []
        for first, last in ends.reshape(3, 2):
            boxes = np.sort(draw.uniform(size=(draw.integers(1, 4), 2, 2)), axis=1).reshape(-1, 4)
            spans.append(Span(starts[first], starts[last] + len(words[last]), boxes))
        found = read_markup(write_markup(text, spans, dialect))
        assert found.text == text and not found.problems
        assert [span[:2] for span in found.spans] == [span[:2] for span in spans]
        for span, own in zip(found.spans, spans, strict=True):
            np.testing.assert_array_equal(span.boxes, PatchLocations().decode(PatchLocations().encode(own.boxes)))


def test_both_dialects_are_one():
    spans = [Span(0, 5, np.concatenate([BOX, BOX])), Span(9, 9, BOX)]
    code, paper = (read_markup(write_markup("a cat is here", spans, dialect)) for dialect in ("code", "paper"))
    assert code.text == paper.text == "a cat is here"
    for one, other in zip(code.spans, paper.spans, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.boxes, other.boxes)
    # Spaces between tags, and an underscore in the paper's tokens, are read as well.
    spaced = read_markup("<p>a cat</p> <box> <loc_44> <loc_863> <delim> <loc44><loc863></box>")
    assert spaced.text == "a cat" and len(spaced.spans[0].boxes) == 2


def test_broken_markup_is_left_out_and_listed():
    half = "<phrase>a</phrase><object><patch_index_0005></object> b"
    assert read_markup(half) == (
        "a b",
        [],
        ["<object> at 18 without whole boxes", "</object> at 44 without whole boxes"],
    )
    over = read_markup("<phrase>a</phrase><object><patch_index_0005><patch_index_1024></object>")
    assert over.text == "a" and not over.spans and "1 boxes at 26 with tokens over 1023" in over.problems[0]
    assert read_markup("<phrase>a b").problems == ["1 phrases are opened, 0 closed"]
    assert "as the code's dialect" in read_markup("<p>a</p><box><loc3></box>").problems[0]
    assert read_markup("") == ("", [], [])


@pytest.mark.parametrize(
    ("text", "spans", "message"),
    [
        ("a cat", [Span(0, 9, BOX)], "span 0 to 9 is outside the text, 0 to 5"),
        ("a cat", [Span(0, 3, BOX), Span(2, 5, BOX)], r"span 2 to 5 \('cat'\) overlaps the one before it"),
        ("a <p>cat", [Span(0, 1, BOX)], r"the text holds '<p>' at 2"),
        ("a cat", [Span(0, 5, np.zeros((0, 4)))], "span 0 to 5 has no box"),
        ("a cat", [Span(0, 5, BOX[:, ::-1])], "1 of 1 boxes cannot be: 1 reversed"),
    ],
)
def test_what_cannot_be_written_is_named(text, spans, message):
    with pytest.raises(ValueError, match=message):
        write_markup(text, spans)
