"""`installed-docs`: the text that every installation of this package already has.

The standard library and a constant list of packages (what pmpjax needed to run in autumn 2026) carry about 17 MB of
docstrings and 135 MB of code beside licences, change logs and data files: a real crawl of mixed quality that needs no
download. Nothing is imported: docstrings are found in the syntax tree.
"""

import ast
import gc
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pmpjax.data.documents import MAXIMUM_BYTES, Document, Rejection, SourceError, chunks, digest, reject_reason
from pmpjax.data.origins import KINDS, parse_origin
from pmpjax.data.sources.packages import InstalledFile, installed_files, normal_name

_LICENCE = re.compile(r"(licen[sc]e|copying|notice|copyright|authors)", re.IGNORECASE)
_CHANGELOG = re.compile(r"(change|history|news|release)", re.IGNORECASE)
_DATA = frozenset(".txt .rst .md .csv .tsv .json .po .dat .afm .yaml .yml .toml .svg .bib".split())


@dataclass(frozen=True)
class Budget:
    """How much of `installed-docs` is taken: bytes of text for each kind.

    Attributes:
        docstring: docstrings of modules, classes and functions, a document each.
        code: Python code without its docstrings, in chunks.
        readme: the long descriptions in the packages' metadata, in chunks.
        changelog: change logs and release notes, in chunks.
        licence: licences, notices and lists of authors, in chunks.
        data: other text files: word lists, tables, configuration, translations, in chunks.
        minimum: shorter texts are no documents (not counted as rejected: most docstrings are one line).
        chunk: aimed size of a chunk.
        file: at most this much of the chunks of one file, so that no single huge file fills a kind.
    """

    docstring: int = 2_500_000
    code: int = 2_500_000
    readme: int = 300_000
    changelog: int = 300_000
    licence: int = 500_000
    data: int = 1_200_000
    minimum: int = 150
    chunk: int = 2_048
    file: int = 32_768


@dataclass
class Harvest:
    """Documents of `installed-docs`, what was rejected on the way, and the version of every package looked at."""

    documents: list[Document] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def kind_of(name: str) -> str | None:
    """The kind of a file by its name: "python", one of `KINDS`, or None when it holds no text of interest.

    >>> [kind_of(name) for name in ("a/b.py", "a-1.dist-info/licenses/MIT", "a-1.dist-info/METADATA", "NEWS", "a.so")]
    ['python', 'licence', 'readme', 'changelog', None]
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    information = any(part.endswith(".dist-info") for part in path.parts)
    if suffix == ".py":
        return "python"
    if information and path.name == "METADATA":
        return "readme"
    if suffix in ("", ".txt", ".rst", ".md"):
        if _LICENCE.match(path.stem) or "licenses" in path.parts:
            return "licence"
        if _CHANGELOG.match(path.stem):
            return "changelog"
    return "data" if suffix in _DATA and not information else None


def docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(qualified name, cleaned docstring, its first and last line) of a module and all its classes and functions."""
    pending: list[tuple[str, ast.AST]] = [(module, tree)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield name, text, (node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno)
        inner = [
            (
                f"{name}.{child.name}"
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                else name,
                child,
            )
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt | ast.ExceptHandler)
        ]
        pending += reversed(inner)


def module_name(name: str) -> str:
    """The dotted name of a Python file.

    >>> module_name("scipy/stats/__init__.py"), module_name("heapq.py")
    ('scipy.stats', 'heapq')
    """
    parts = PurePosixPath(name).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def harvest(budget: Budget, *, exclude: frozenset[str] = frozenset(), seed: int = 0) -> Harvest:
    """A sample of `installed-docs` within the budget of each kind, without the packages in `exclude`.

    Files are taken in the order of a hash of package, name and seed until the budget of their kind is spent: the sample
    depends on nothing but installed versions, budget and seed. Documents come in the order of their ids' hashes.
    """
    result = Harvest()
    result.versions, files = installed_files()
    files = [file for file in files if file.package not in exclude]
    files.sort(key=lambda file: digest(str(seed), file.package, file.name))
    left = {kind: int(getattr(budget, kind)) for kind in KINDS}
    for file in files:
        kind = kind_of(file.name)
        wanted = ("docstring", "code") if kind == "python" else (kind,)
        wanted = {kind for kind in wanted if kind is not None and left[kind] > 0}
        if not wanted:
            continue
        for kind, item in _read(file, wanted, budget, result.rejected):
            if left[kind] > 0:
                left[kind] -= len(item.text.encode())
                result.documents.append(item)
    result.documents.sort(key=lambda document: digest(str(seed), document.id))
    return result


def reference(package: str, minimum: int) -> Harvest:
    """All docstrings of one package, its tests left out: what describes it to its users. Grouped by module.

    Raises `SourceError` when the package is not in the closure or has no docstring.
    """
    result = Harvest()
    versions, files = installed_files()
    name = normal_name(package)
    if name not in versions:
        names = ", ".join(sorted(versions))
        raise SourceError(f"installed-docs has no package {package!r}; choose one of {names}")
    result.versions = {name: versions[name]}
    budget = Budget(minimum=minimum)
    for file in files:
        parts = PurePosixPath(file.name).parts
        if file.package == name and kind_of(file.name) == "python" and not {"tests", "test", "testing"} & set(parts):
            result.documents += [item for _, item in _read(file, {"docstring"}, budget, result.rejected)]
    if not result.documents:
        raise SourceError(f"{package} has no docstring of at least {minimum} bytes; choose another package")
    return result


def _read(
    file: InstalledFile, wanted: set[str], budget: Budget, rejected: list[Rejection]
) -> Iterator[tuple[str, Document]]:
    """The documents of the wanted kinds in one file; what is wrong with it goes to `rejected`."""
    place = f"{file.package}:{file.name}"
    try:
        data = file.path.read_bytes()
    except OSError:  # listed by the package, but deleted or not unpacked on this system
        return
    kind = kind_of(file.name)
    if b"\0" in data[:8192]:
        rejected.append(Rejection(place, 0, "binary: holds zero bytes"))
        return
    if kind in ("python", "readme") and len(data) > MAXIMUM_BYTES:
        rejected.append(Rejection(place, 0, f"too long: {len(data)} bytes, at most {MAXIMUM_BYTES}"))
        return
    try:
        if kind == "python":
            data.decode("utf-8")
            yield from _read_python(file, data, wanted, budget, rejected)
            return
        if kind == "readme":
            data = data.decode("utf-8").partition("\n\n")[2].encode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        rejected.append(Rejection(place, line, f"not UTF-8: byte {data[error.start]:#04x}"))
        return
    yield from _read_chunks(file, kind or "data", data, budget, rejected)


def _read_python(
    file: InstalledFile, data: bytes, wanted: set[str], budget: Budget, rejected: list[Rejection]
) -> Iterator[tuple[str, Document]]:
    module = module_name(file.name)
    try:
        with warnings.catch_warnings(), _without_collector():
            warnings.simplefilter("ignore")  # invalid escapes in other people's string literals
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 0
        rejected.append(Rejection(f"{file.package}:{file.name}", line, f"not Python: {error.__class__.__name__}"))
        return
    found = list(docstrings(tree, module))
    if "docstring" in wanted:
        for name, text, (line, _) in found:
            if len(text.encode("utf-8", "replace")) < budget.minimum:
                continue
            reason = reject_reason(text)
            if reason is not None:
                rejected.append(Rejection(f"{file.package}:{file.name}", line, reason))
                continue
            yield (
                "docstring",
                Document(
                    f"{file.package}:{file.name}:{line}:docstring", text, f"{file.package}:docstring:{name}", module
                ),
            )
    if "code" in wanted:
        # Docstrings are documents of their own; code that kept them would bring the target's words in again.
        lines = data.splitlines(keepends=True)
        for _, _, (first, last) in found:
            lines[first - 1 : last] = [b""] * (last - first + 1)
        yield from _read_chunks(file, "code", b"".join(lines), budget, rejected)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A syntax tree has many nodes and no cycles: the collector's walks over it took two fifths of a harvest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_chunks(
    file: InstalledFile, kind: str, data: bytes, budget: Budget, rejected: list[Rejection]
) -> Iterator[tuple[str, Document]]:
    place = f"{file.package}:{file.name}"
    used = 0
    for line, chunk in chunks(data[: 4 * budget.file], budget.chunk):
        if len(chunk) < budget.minimum or not chunk.strip():
            continue
        try:
            text = chunk.decode("utf-8")
        except UnicodeDecodeError as error:
            rejected.append(Rejection(place, line, f"not UTF-8: byte {chunk[error.start]:#04x} at {error.start}"))
            continue
        used += len(chunk)
        if used > budget.file:
            return
        yield (
            kind,
            Document(f"{place}:{line}:{kind}", text, f"{file.package}:{kind}:{file.name}", module_name(file.name)),
        )


def fingerprints(documents: list[Document], versions: Mapping[str, str]) -> dict[str, dict[str, str | int]]:
    """By package: version, number of documents and a hash of their contents, for the manifest of a corpus."""
    texts: dict[str, list[str]] = {package: [] for package in versions}
    for document in sorted(documents):
        texts[str(parse_origin(document.origin).package)].append(digest(document.id, document.text))
    return {
        package: {"version": versions[package], "documents": len(found), "content": digest(*found)}
        for package, found in sorted(texts.items())
    }
