import gzip

import numpy as np
import pytest

from pmpjax.data.documents import SourceError
from pmpjax.evaluation.tasks import wordnet as module
from pmpjax.evaluation.tasks.make import Sizes
from pmpjax.evaluation.tasks.wordnet import CATEGORIES, EXTRACT, INSTALLED, SIZES, glosses, wordnet, write_extract

# Lines of data.noun in the format of wndb(5WN).
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
FOOD = '07555863 13 n 02 food 0 nutrient 0 001 @ 00021265 n 0000 | any solid substance; "food and drink"  \n'
SHAPE = "13860793 25 n 01 figure 0 001 @ 00027807 n 0000 | a combination of points and lines | and planes  \n"


def database(folder, lines):
    (folder / "data.noun").write_text("".join(lines), encoding="utf-8")
    return folder


def test_definitions_and_categories(tmp_path):
    found = glosses(database(tmp_path, [LICENCE, FOOD, SHAPE]))
    assert found == [("any solid substance", "food"), ("a combination of points and lines | and planes", "shape")]
    assert len(CATEGORIES) == 26 and CATEGORIES[18 - 3] == "person"


@pytest.mark.parametrize("line", ["00001740 02 n 01 entity 0 000 | a verb  \n", "no synset\n", "1 03 n 01 x 0 000\n"])
def test_another_format_is_refused(tmp_path, line):
    with pytest.raises(SourceError, match=r"data\.noun:2 is no synset of nouns"):
        glosses(database(tmp_path, [LICENCE, line]))
    with pytest.raises(SourceError, match="does not exist; install Debian's wordnet-base"):
        wordnet(folder=tmp_path / "nothing")


def test_the_extract_holds_what_it_says():
    task = wordnet()
    assert len(task.classes) == SIZES.classes and set(np.bincount(task.labels)) == {SIZES.per_class}
    assert {"food", "person"} <= set(task.classes) <= set(CATEGORIES)
    train, test = (np.bincount(task.labels[task.splits[name]]).min() for name in ("train", "test"))
    assert train >= 128 and test >= 50
    assert EXTRACT.stat().st_size < 250_000
    assert "Princeton University" in EXTRACT.with_name("wordnet_licence.txt").read_text()


def big(folder, extra=0):
    """A database in which the classes are of 5, 6, 7 and 8 glosses, in no order of names."""
    sizes = {5: 7, 13: 5, 18: 8, 25: 6}
    lines = [
        f"0 {number:02} n 01 word 0 000 | meaning {i} of {CATEGORIES[number - 3]}\n"
        for i in range(8)
        for number in sizes
        if i < sizes[number]
    ]
    return database(folder, lines)


@pytest.mark.parametrize("sizes", [Sizes(classes=3, per_class=5), Sizes(classes=2, per_class=3, test=0.4)])
def test_an_extract_gives_the_task_of_the_whole_database(tmp_path, monkeypatch, sizes):
    held = Sizes(classes=3, per_class=5)
    monkeypatch.setattr(module, "SIZES", held)
    monkeypatch.setattr(module, "EXTRACT", tmp_path / "extract.tsv.gz")
    monkeypatch.setattr(module, "INSTALLED", tmp_path / "nothing")
    write_extract(big(tmp_path), tmp_path / "extract.tsv.gz")
    one, two = wordnet(seed=2, sizes=sizes), wordnet(seed=2, sizes=sizes, folder=tmp_path)
    assert one.texts == two.texts and one.classes == two.classes and (one.labels == two.labels).all()
    assert one.classes == ("animal", "person", "shape")[: sizes.classes]
    for name in one.splits:
        assert (one.splits[name] == two.splits[name]).all()
    first = (tmp_path / "extract.tsv.gz").read_bytes()
    write_extract(tmp_path, tmp_path / "extract.tsv.gz")
    assert first == (tmp_path / "extract.tsv.gz").read_bytes()
    assert gzip.decompress(first).startswith(b"text\tlabel\nmeaning")


def test_more_than_the_extract_has_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "INSTALLED", tmp_path)
    for sizes in (Sizes(), Sizes(classes=16), Sizes(classes=17, per_class=9)):
        with pytest.raises(SourceError, match="the extract of WordNet has 16 classes of 400 glosses, asked for"):
            wordnet(sizes=sizes)


@pytest.mark.skipif(not (INSTALLED / "data.noun").exists(), reason="Debian's wordnet-base is not installed")
def test_the_extract_is_that_of_the_installed_database(tmp_path):
    write_extract(INSTALLED, tmp_path / "extract.tsv.gz")
    assert gzip.decompress((tmp_path / "extract.tsv.gz").read_bytes()) == gzip.decompress(EXTRACT.read_bytes())
