"""One style of HTML page for the reports of every system: data in, markup in the template of the same name.

Texts are data: whatever stands in a document, a verdict or a warning is escaped. A page is one file; its figures are
in it.
"""

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from pmpjax.runs.files import write_text

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class Text:
    """A long text, such as a document: collapsible under its label, line breaks kept."""

    kind: ClassVar[str] = "text"
    label: str
    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph; `warning` sets it apart."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG and what it shows, in words."""

    kind: ClassVar[str] = "figure"
    path: Path
    shows: str

    @property
    def content(self) -> str:
        """The file, in base64."""
        return base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclasses.dataclass(frozen=True)
class Table:
    """A header and rows of as many cells; `equal` makes all columns equally wide, for cells that hold texts.

    Raises:
        ValueError: a row has more or fewer cells than the header; names it.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    equal: bool = False

    def __post_init__(self):
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(
                    f"row {index} of the table has {len(row)} cells, expected {len(self.header)}, one for each of "
                    f"{', '.join(self.header)}"
                )


Part = Note | Figure | Table | Text


@dataclasses.dataclass(frozen=True)
class Section:
    """Parts under a heading, or without one."""

    heading: str | None
    parts: Sequence[Part]


def render(title: str, verdict: str, sections: Iterable[Section]) -> str:
    """The page as HTML.

    >>> page = render("A run", "1 < 2", [Section("Losses", [Table(["seed", "loss"], [["0", "4.25"]])])])
    >>> "1 &lt; 2" in page, "<td>4.25</td>" in page
    (True, True)
    """
    import jinja2  # only for those who write a page

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, verdict=verdict, sections=list(sections)) + "\n"


def write_page(path: Path | str, title: str, verdict: str, sections: Iterable[Section]) -> None:
    """Writes the page atomically; figures are read from their files."""
    write_text(path, render(title, verdict, sections))
