"""Text with boxes written into it, in both dialects of Kosmos-2."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pmpjax.multimodal.boxes import PatchLocations

Dialect = Literal["code", "paper"]

GROUNDING = "<grounding>"
"""In front of a text it switches boxes on."""

_TAGS = {
    "code": ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>"),
    "paper": ("<p>", "</p>", "<box>", "</box>", "<delim>"),
}
_LOCATION = r"<patch_index_\d+>"
_PAIR = rf"{_LOCATION}\s*{_LOCATION}"
_OBJECT = re.compile(
    rf"(?:<phrase>([^<]+)</phrase>\s*)?<object>\s*((?:{_PAIR}\s*</delimiter_of_multi_objects/>\s*)*{_PAIR})\s*</object>"
)
_ANY_TAG = re.compile(r"<.*?>")
_PAPER = re.compile(r"<(/?)(p|box|delim|loc_?(\d+))>")


class Span(NamedTuple):
    """A phrase and where it is seen.

    Fields:
        begin, end: characters of the clean text; equal where boxes stand without a phrase.
        boxes: [N, 4] (left, top, right, bottom) from 0 to 1.
    """

    begin: int
    end: int
    boxes: np.ndarray


class Grounded(NamedTuple):
    """A text and its boxes.

    Fields:
        text: without markup, and without space around it.
        spans: in the text's order.
        problems: markup that means nothing, with the place where it begins in the marked text.
    """

    text: str
    spans: list[Span]
    problems: Sequence[str] = ()


def write_markup(
    text: str, spans: Sequence[Span], dialect: Dialect = "code", locations: PatchLocations = PatchLocations()
) -> str:
    """The text with its phrases and boxes marked, as Kosmos-2 reads and writes them.

    Raises ValueError: spans overlap or leave the text, a span without a box, what is no box, markup in the text itself.

    >>> span = Span(3, 12, np.array([[0.39, 0.05, 0.98, 0.82]]))
    >>> write_markup("of a snowman", [span])
    'of <phrase>a snowman</phrase><object><patch_index_0044><patch_index_0863></object>'
    >>> write_markup("of a snowman", [span], "paper")
    'of <p>a snowman</p><box><loc44><loc863></box>'
    """
    tag = _ANY_TAG.search(text)
    if tag:
        raise ValueError(f"the text holds {tag[0]!r} at {tag.start()}, which reads as markup; take it out")
    opened, closed, begin_boxes, end_boxes, delimiter = _TAGS[dialect]
    name = "<patch_index_{:04d}>" if dialect == "code" else "<loc{}>"
    parts, at = [], 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if not 0 <= span.begin <= span.end <= len(text):
            raise ValueError(f"span {span.begin} to {span.end} is outside the text, 0 to {len(text)}; correct it")
        if span.begin < at:
            raise ValueError(
                f"span {span.begin} to {span.end} ({text[span.begin : span.end]!r}) overlaps the one before it, which "
                f"ends at {at}; keep the outer one"
            )
        if not len(span.boxes):
            raise ValueError(f"span {span.begin} to {span.end} has no box; leave it out")
        pairs = locations.encode(np.asarray(span.boxes, float))
        boxes = delimiter.join("".join(name.format(number) for number in pair) for pair in pairs)
        phrase = f"{opened}{text[span.begin : span.end]}{closed}" if span.end > span.begin else ""
        parts += [text[at : span.begin], phrase, begin_boxes, boxes, end_boxes]
        at = span.end
    return "".join([*parts, text[at:]])


def read_markup(marked: str, locations: PatchLocations = PatchLocations()) -> Grounded:
    """Text and boxes of marked text, in either dialect; what is broken is left out and listed.

    On whole markup of the code's dialect this is transformers' reader for Kosmos-2.

    >>> found = read_markup("<grounding> An image of<p> a snowman</p><box><loc44><loc863></box>.")
    >>> found.text, [(found.text[span.begin : span.end], span.boxes.tolist()) for span in found.spans]
    ('An image of a snowman.', [('a snowman', [[0.390625, 0.046875, 0.984375, 0.828125]])])
    >>> read_markup("<phrase>a fire</phrase><object><patch_index_0005></object>").problems[0]
    '<object> at 23 without whole boxes'
    """
    code = _PAPER.sub(_in_code, marked)
    same = code == marked
    spans, problems, read = [], [], []
    for match in _OBJECT.finditer(code):
        read.append(match.span())
        found = [min(int(number), locations.size) for number in re.findall(r"<patch_index_(\d+)>", match[2])]
        numbers = np.asarray(found, int).reshape(-1, 2)
        wrong = (numbers >= locations.size).any(axis=1)
        if wrong.any():
            problems.append(f"{wrong.sum()} boxes at {match.start(2)} with tokens over {locations.size - 1}")
        begin, end = match.span(1) if match[1] else (match.start(), match.start())
        begin, end = (len(_ANY_TAG.sub("", code[:at])) for at in (begin, end))
        if not wrong.all():
            spans.append((begin, end, locations.decode(numbers[~wrong])))
    for match in re.finditer(r"<object>|</object>|<phrase>|</phrase>", code):
        if match[0] in ("<object>", "</object>") and not any(a <= match.start() < b for a, b in read):
            problems.append(f"{match[0]} at {match.start()} without whole boxes")
    if code.count("<phrase>") != code.count("</phrase>"):
        problems.append(f"{code.count('<phrase>')} phrases are opened, {code.count('</phrase>')} closed")
    if not same and problems:
        problems = [f"{problem} (as the code's dialect)" for problem in problems]
    clean = _ANY_TAG.sub("", code)
    lead = len(clean) - len(clean.lstrip())
    return Grounded(clean.strip(), [_trimmed(clean, lead, *span) for span in spans], problems)


def _in_code(match: re.Match[str]) -> str:
    """A tag of the paper's dialect in the code's."""
    close, name, number = match.groups()
    if number is not None:
        return f"<patch_index_{int(number):04d}>"
    index = {"p": 0, "box": 2, "delim": 4}[name]
    return _TAGS["code"][index + (1 if close and name != "delim" else 0)]


def _trimmed(clean: str, lead: int, begin: int, end: int, boxes: np.ndarray) -> Span:
    """A span without the space at its ends, counted in the text without the space before it."""
    phrase = clean[begin:end]
    begin += len(phrase) - len(phrase.lstrip())
    end -= len(phrase) - len(phrase.rstrip()) if phrase.strip() else end - begin
    return Span(begin - lead, end - lead, boxes)
