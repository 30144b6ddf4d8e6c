"""All methods of selection for one author's stories, from books, documentation and code of all kinds.

    python experiments/pds_books.py CLONES [OUT]      # about an hour on two cores

CLONES holds clones (bare ones too) of the public-domain books of github.com/standardebooks in `TARGET` and `SOURCE`, at
any depth and under any name that has the repository's in it. Source: those books, at most 250 kB of each, and half as
much of installed-docs as `pmpjax pds run` takes; target: Sherlock Holmes, whose stories are split into dev and test.
"""

import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pmpjax.baselines.registry import BASELINES
from pmpjax.data import Budget
from pmpjax.pds import PDSConfig, run
from pmpjax.pds.compare import comparison_table
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.runs.files import write_text

TARGET = (
    "arthur-conan-doyle_the-adventures-of-sherlock-holmes",
    "arthur-conan-doyle_the-memoirs-of-sherlock-holmes",
    "arthur-conan-doyle_the-return-of-sherlock-holmes",
)
SOURCE = (
    "ambrose-bierce_the-devils-dictionary",
    "bram-stoker_dracula",
    "charles-darwin_the-origin-of-species",
    "david-hume_an-enquiry-concerning-human-understanding",
    "e-w-hornung_the-amateur-cracksman",
    "g-k-chesterton_the-innocence-of-father-brown",
    "h-g-wells_the-war-of-the-worlds",
    "homer_the-iliad_william-cullen-bryant",
    "jane-austen_pride-and-prejudice",
    "mark-twain_the-adventures-of-huckleberry-finn",
    "mary-shelley_frankenstein",
    "p-g-wodehouse_love-among-the-chickens",
    "plato_dialogues_benjamin-jowett",
    "samuel-pepys_the-diary",
    "walt-whitman_leaves-of-grass",
    "william-shakespeare_hamlet",
)
NO_TEXT = ("colophon", "imprint", "titlepage", "halftitlepage", "uncopyright", "endnotes", "loi")
PIECE, BOOK = 2048, 250_000
HALF = Budget(docstring=1_250_000, code=1_250_000, data=600_000, readme=150_000, changelog=150_000, licence=250_000)


class _Text(html.parser.HTMLParser):
    """The paragraphs, lines of verse and headings of a page."""

    ENDS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "td", "dd", "dt", "header"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or tag == "body"
        if tag == "br":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.ENDS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.parts.append(re.sub(r"\s+", " ", data))


def paragraphs(page: str) -> Iterator[str]:
    """The page's paragraphs without markup."""
    parser = _Text()
    parser.feed(page)
    for paragraph in "".join(parser.parts).split("\n\n"):
        if text := "\n".join(line.strip() for line in paragraph.split("\n") if line.strip()):
            yield text


def pieces(page: str, size: int = PIECE) -> Iterator[str]:
    """Paragraphs joined up to `size` characters; a longer one is a piece by itself."""
    piece = ""
    for paragraph in paragraphs(page):
        if piece and len(piece) + len(paragraph) > size:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if piece:
        yield piece


def clone_of(clones: Path, name: str) -> Path:
    """The git directory or work tree of a book among the clones."""
    found = sorted(clones.glob(f"*{name}*"))
    if not found:
        raise SystemExit(f"{clones} has no clone of github.com/standardebooks/{name}; clone it there")
    inner = found[0] / "repo"
    return inner if inner.is_dir() else found[0]


def pages_of(clone: Path) -> Iterator[tuple[str, str]]:
    """(name, content) of the pages that are text, in the order of their names."""
    git = ("git", "-C", str(clone))
    listing = subprocess.run((*git, "ls-tree", "-r", "--name-only", "HEAD"), capture_output=True, text=True, check=True)
    for path in sorted(listing.stdout.split("\n")):
        stem = Path(path).stem
        if "/text/" in path and path.endswith(".xhtml") and not stem.startswith(NO_TEXT):
            shown = subprocess.run((*git, "show", f"HEAD:{path}"), capture_output=True, text=True, check=True)
            yield stem, shown.stdout


def harvest(clones: Path, folder: Path) -> None:
    """source/BOOK.jsonl, target/STORY.jsonl: a file is what is not torn between dev and test."""
    for book in SOURCE:
        texts, size = [], 0
        for _, page in pages_of(clone_of(clones, book)):
            for piece in pieces(page):
                if size < BOOK:
                    texts.append(piece)
                    size += len(piece.encode())
        _write(folder / "source" / f"{book}.jsonl", texts)
    for book in TARGET:
        for stem, page in pages_of(clone_of(clones, book)):
            _write(folder / "target" / f"{stem}.jsonl", list(pieces(page)))


def _write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    write_text(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/pds-books")
    texts = out.with_name(f"{out.name}-texts")
    harvest(Path(sys.argv[1]), texts)
    config = PDSConfig(
        source=(str(texts / "source"), "installed-docs"),
        target=str(texts / "target"),
        seeds=5,
        baselines=BASELINES,
        prepare=PrepareConfig(budget=HALF),
    )
    metrics = run(config, out)
    for row in comparison_table(metrics["comparison"]):
        print(*row, sep=" | ")
    print(metrics["verdict"])
