import ast
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

from pmpjax.data.documents import SourceError
from pmpjax.data.sources import installed, packages
from pmpjax.data.sources.installed import Budget, fingerprints, harvest, kind_of, reference
from pmpjax.data.sources.packages import PACKAGES, STANDARD_LIBRARY, InstalledFile, installed_files, normal_name

SMALL = Budget(docstring=60_000, code=60_000, readme=20_000, changelog=1_000, licence=20_000, data=40_000)


@pytest.fixture(scope="module")
def small():
    return harvest(SMALL, exclude=frozenset({"scipy"}))


def kind(document):
    return document.origin.split(":")[1]


def package(document):
    return document.origin.split(":")[0]


def test_the_packages_are_a_constant_that_the_manifest_of_a_harvest_repeats(small):
    """Of the list, whatever is installed is harvested; nothing else is, however much is installed."""
    installed_names = {normal_name(distribution.metadata["Name"]) for distribution in metadata.distributions()}
    versions = installed_files()[0]
    assert list(versions) == [STANDARD_LIBRARY, *(name for name in PACKAGES if name in installed_names)]
    assert {package(document) for document in small.documents} <= set(versions)
    assert {"jax", "jaxlib", "numpy", "scipy", "optax", "flax", "pyarrow", "tokenizers"} <= set(versions)
    assert not {"pmpjax", "pytest", "pip", "setuptools", "ruff", "pyright", "beartype", "chex"} & set(versions)
    assert list(PACKAGES) == sorted(map(normal_name, PACKAGES))


def test_a_mixed_sample_within_its_budget(small):
    size = Counter()
    for document in small.documents:
        size[kind(document)] += len(document.text.encode())
    assert set(size) >= {"docstring", "code", "readme", "licence", "data"}
    for name, bytes_of_kind in size.items():
        assert bytes_of_kind <= getattr(SMALL, name) + 50_000  # the last document may go over it
    assert len({package(document) for document in small.documents}) > 10
    assert len({document.id for document in small.documents}) == len(small.documents)


def test_the_same_sample_in_another_process(small):
    code = (
        "from pmpjax.data.sources.installed import *\n"
        f"print(fingerprints(harvest({SMALL!r}, exclude=frozenset(['scipy'])).documents, installed_files()[0]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PYTHONHASHSEED": "7"},
    )
    versions = installed_files()[0]
    assert ast.literal_eval(other.stdout) == fingerprints(small.documents, versions)
    assert versions["numpy"] == metadata.version("numpy")


def test_another_seed_gives_another_sample(small):
    other = harvest(Budget(docstring=60_000, code=0, readme=0, changelog=0, licence=0, data=0), seed=1)
    mine = {document.id for document in small.documents if kind(document) == "docstring"}
    assert len(mine & {document.id for document in other.documents}) < 0.5 * len(mine)


def test_an_excluded_package_leaves_nothing(small):
    assert not any("scipy" == package(document) for document in small.documents)
    assert not any(document.id.startswith("scipy:") for document in small.documents)


def test_reference_is_all_docstrings_of_a_package_but_its_tests():
    found = reference("optax", 150).documents
    assert {kind(document) for document in found} == {"docstring"} and {package(d) for d in found} == {"optax"}
    import optax

    texts = {document.origin.split(":", 2)[2]: document.text for document in found}
    name = "optax.transforms._accumulation.MultiSteps"
    assert texts[name] == ast.get_docstring(ast.parse(_source(optax.MultiSteps)).body[0])
    assert all(len(text.encode()) >= 150 for text in texts.values())
    assert not any("_test" in document.group.split(".") or "tests" in document.group.split(".") for document in found)


def _source(item):
    import inspect

    return inspect.getsource(item)


def test_an_unknown_package_names_the_choice():
    with pytest.raises(SourceError, match=r"no package 'pytest'; choose one of .*scipy"):
        reference("pytest", 150)


def read(tmp_path, name, data, wanted):
    path = tmp_path / Path(name).name
    path.write_bytes(data)
    rejected = []
    budget = Budget(minimum=10, chunk=60, file=200)
    found = list(installed._read(InstalledFile("toy", name, path), wanted, budget, rejected))
    return [document for _, document in found], rejected


PYTHON = b'''"""A module of some length."""
import os

class Thing:
    """A thing of some length."""

    def method(self):
        """A method of some length."""
        def inner():
            """An inner one, long too."""
        return 1  # kept code

if os:
    async def late():
        """Found below a statement."""
def short():
    """No."""
'''


def test_docstrings_are_documents_and_code_goes_without_them(tmp_path):
    documents, _ = read(tmp_path, "toy/place.py", PYTHON, {"docstring"})
    assert [(document.origin, document.text) for document in documents] == [
        ("toy:docstring:toy.place", "A module of some length."),
        ("toy:docstring:toy.place.Thing", "A thing of some length."),
        ("toy:docstring:toy.place.Thing.method", "A method of some length."),
        ("toy:docstring:toy.place.Thing.method.inner", "An inner one, long too."),
        ("toy:docstring:toy.place.late", "Found below a statement."),
    ]
    assert {document.group for document in documents} == {"toy.place"}
    code = "".join(document.text for document in read(tmp_path, "toy/place.py", PYTHON, {"code"})[0])
    assert "some length" not in code and "kept code" in code and "async def late" in code


@pytest.mark.parametrize(
    ("name", "data", "line", "word"),
    [
        ("toy/bad.py", b"x = 1\ndef broken(:\n", 2, "not Python: SyntaxError"),
        ("toy/latin.py", b"# one\n# \xe9t\xe9\n", 2, "not UTF-8: byte 0xe9"),
        ("toy/latin.txt", b"words and words\n\xe9t\xe9 and more of it\n", 1, "not UTF-8: byte 0xe9"),
        ("toy/table.dat", b"\x00\x01\x02" * 50, 0, "binary"),
        ("toy/huge.py", b"x = 1\n" * 200_000, 0, "too long"),
        ("toy/half.py", b'"""A lone surrogate \\ud800 in a docstring."""\n', 1, "surrogate"),
    ],
)
def test_what_cannot_be_read_is_listed(tmp_path, name, data, line, word):
    documents, rejected = read(tmp_path, name, data, {"docstring", "data"})
    assert not documents and len(rejected) == 1
    assert (rejected[0].file, rejected[0].line) == (f"toy:{name}", line) and word in rejected[0].reason


def test_one_file_cannot_fill_a_kind(tmp_path):
    documents, _ = read(tmp_path, "toy/words.txt", b"a word in a line\n" * 10_000, {"data"})
    assert 100 < sum(len(document.text) for document in documents) <= 200


def test_readme_is_the_body_of_the_metadata(tmp_path):
    data = b"Metadata-Version: 2.1\nName: toy\n\nThis toy is described here.\n"
    documents, _ = read(tmp_path, "toy-1.dist-info/METADATA", data, {"readme"})
    assert [document.text for document in documents] == ["This toy is described here.\n"]


def test_a_listed_file_that_is_absent_is_no_error(tmp_path):
    assert not list(installed._read(InstalledFile("toy", "toy/gone.py", tmp_path / "gone.py"), {"code"}, Budget(), []))


def test_parts_that_systems_split_off_are_left_out():
    _, files = installed_files()
    names = {file.name for file in files if file.package == packages.STANDARD_LIBRARY}
    assert "heapq.py" in names and "json/decoder.py" in names
    assert not any(name.startswith(("test/", "idlelib/", "site-packages/", "_sysconfigdata")) for name in names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a/licences/x.json", "data"),
        ("a-1.dist-info/RECORD", None),
        ("a-1.dist-info/top_level.txt", None),
        ("a-1.dist-info/licenses/third/NOTICE.txt", "licence"),
        ("a/HISTORY.md", "changelog"),
        ("a/notes.rst", "data"),
        ("a/__init__.pyi", None),
    ],
)
def test_kinds(name, wanted):
    assert kind_of(name) == wanted
