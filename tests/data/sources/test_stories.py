import re
import string

import numpy as np
import pytest

from pmpjax.data import Budget, SourceError, find_copies, read_source
from pmpjax.data.sources import hub
from pmpjax.data.sources.stories import generate_stories
from pmpjax.data.sources.story_grammar import HEROES, PLOTS, PRONOUNS, RULES


@pytest.fixture(scope="module")
def stories():
    return list(generate_stories(2000, seed=0))


def test_the_seed_and_the_number_decide_a_story(stories):
    assert list(generate_stories(20, seed=0)) == stories[:20]
    other = {document.text for document in generate_stories(500, seed=1)}
    assert not other & {document.text for document in stories}
    assert len({document.id for document in stories}) == 2000


def test_thousands_of_stories_without_near_copies(stories):
    assert (find_copies([document.text for document in stories], 0.5).kind > 0).mean() < 0.01


def test_stories_are_whole_and_varied(stories):
    texts = [document.text for document in stories]
    assert not any(re.search(r"[{}|~]|\s[.,]|(^|[.!?] |[.]\" )[a-z]", text) for text in texts)
    assert all(text[0].isupper() or text[0] == '"' for text in texts)
    assert all(text.count('"') % 2 == 0 and text.endswith((".", "!", '"')) for text in texts)
    sizes = np.array([len(text) for text in texts])
    assert sizes.min() > 200 and sizes.max() < 2000
    openings = {text.split(".")[0] for text in texts}
    assert len(openings) > 1000
    assert {document.group for document in stories} == {f"story-grammar:{plot}" for plot in PLOTS}
    assert all(sum(name in text for text in texts) > 50 for name, _, _ in HEROES)


def symbols(text):
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.mark.parametrize("plot", PLOTS)
def test_every_symbol_of_every_rule_is_known(plot):
    bound = {"name", "kind", "friend", "friend_kind", "elder"}
    bound |= {prefix + case for prefix in ("", "friend_", "elder_") for case in PRONOUNS["she"]}
    known = bound | RULES.keys() | PLOTS[plot].keys()
    for rules in (RULES, PLOTS[plot]):
        for alternatives in rules.values():
            assert len(set(alternatives)) == len(alternatives) >= 2
            for text in alternatives:
                assert symbols(text) <= known, text


def test_as_a_source():
    corpus = read_source("story-grammar:30", Budget(), seed=2)
    assert corpus.documents == list(generate_stories(30, seed=2)) and not corpus.rejected


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5"])
def test_a_count_that_is_none_is_named(count):
    with pytest.raises(SourceError, match=f"story-grammar:{count} names no number"):
        read_source(f"story-grammar:{count}", Budget())


def test_tinystories_is_downloaded_or_refused_and_never_generated(monkeypatch, tmp_path):
    asked = []

    def download(repository, split):
        asked.append((repository, split))
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "download", download)
    for name in ("tinystories", "tinystories@validation"):
        with pytest.raises(SourceError, match=r"roneneldan/TinyStories and must be downloaded: .*needs a network"):
            read_source(name, Budget())
    assert asked == [("roneneldan/TinyStories", "train"), ("roneneldan/TinyStories", "validation")]
    (tmp_path / "a.txt").write_text("Once upon a time.\n")
    monkeypatch.setattr(hub, "download", lambda *_: (tmp_path, ["a.txt"]))
    (document,) = read_source("tinystories", Budget()).documents
    assert document.text == "Once upon a time.\n" and document.origin.startswith("hf:roneneldan/TinyStories/a.txt")
