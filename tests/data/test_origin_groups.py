"""Groups of origins and their shares of the tokens."""

import numpy as np
import pytest

from pmpjax.data.origins import origin_groups, origin_shares
from tests.corpora import prepared_corpus


def test_an_origin_is_a_kind_of_harvested_text_or_the_ending_of_a_file():
    origins = ["scipy:docstring:scipy.stats.norm", "notes/a.txt:3", "notes/a.tar.gz:3", "notes/README"]
    names, group = origin_groups(origins)
    assert names[group].tolist() == ["docstring", "txt", "gz", "other"]


def test_shares_are_by_tokens_and_count_a_repeated_document_as_often(tmp_path):
    table = prepared_corpus(tmp_path).documents
    names, group = origin_groups(table.origins)
    selected = np.array([0, 0, 1, 2])
    found = origin_shares(table, selected)
    tokens = table.n_tokens
    assert set(found) == set(names) == {"docstring", "code"}
    for name, shares in found.items():
        own = names[group] == name
        assert shares["source"] == pytest.approx(tokens[own].sum() / tokens.sum())
        assert shares["selection"] == pytest.approx(tokens[selected][own[selected]].sum() / tokens[selected].sum())
    assert [shares["source"] for shares in found.values()] == sorted(
        (s["source"] for s in found.values()), reverse=True
    )
