"""The page: every text escaped wherever it stands, figures inside, mistakes of the caller named."""

import html
import re
from html.parser import HTMLParser

import jinja2
import pytest

from pmpjax.runs import page
from pmpjax.runs.page import Figure, Note, Section, Table, Text, render, write_page

EVIL = """<script>alert("x")</script>' onload='y' & {{ 7 * 7 }}"""
PNG = b"\x89PNG\r\n\x1a\n and more"


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(PNG)
    return Figure(path, EVIL)


class Parsed(HTMLParser):
    """Tags that are open at the end, all tags, and the text of the page."""

    VOID = ("meta", "img", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_no_text_becomes_markup_wherever_it_stands(figure):
    table = Table([EVIL, "b"], [[EVIL, Text(EVIL, EVIL)]])
    parts = [Note(EVIL), Note(EVIL, warning=True), table, Text(EVIL, EVIL), figure]
    text = render(EVIL, EVIL, [Section(EVIL, parts), Section(None, [])])
    found = Parsed(text)
    assert found.open == [] and "script" not in found.tags and "49" not in "".join(found.texts)
    # Title twice, verdict, heading, two notes, header, cell, label and text of the cell and of the part by itself.
    assert "".join(found.texts).count(EVIL) == 12
    assert ("alt", EVIL) in found.attributes and "onload" not in {name for name, _ in found.attributes}
    assert text.count(html.escape(EVIL, quote=False)[:20]) == 13


def test_a_page_needs_no_other_file(figure, tmp_path):
    write_page(tmp_path / "report.html", "title", "verdict", [Section("heading", [figure])])
    figure.path.unlink()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    (source,) = re.findall(r'src="([^"]*)"', text)
    assert source.startswith("data:image/png;base64,iVBORw0KGgo")
    assert "http" not in text and "@import" not in text and "<link" not in text


def test_texts_keep_their_lines_and_tables_their_cells():
    text = render("t", "v", [Section("s", [Table(["best", "worst"], [[Text("label", "a\n\n  b"), "c"]], equal=True)])])
    assert "<pre>a\n\n  b</pre>" in text and "<summary>label</summary>" in text
    found = Parsed(text)
    assert [tag for tag in found.tags if tag in ("th", "td", "details")] == ["th", "th", "td", "details", "td"]
    assert ("class", "equal") in found.attributes


def test_a_row_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"row 1 of the table has 1 cells, expected 2.*seed, loss"):
        Table(["seed", "loss"], [["0", "1"], ["1"]])


def test_a_name_that_is_not_there_is_no_empty_text(monkeypatch, tmp_path):
    template = tmp_path / "page"
    template.write_text("{{ titel }}")
    monkeypatch.setattr(page, "_TEMPLATE", template)
    with pytest.raises(jinja2.UndefinedError, match="titel"):
        render("title", "verdict", [])
