"""Each measure against plain loops, and what must not change it."""

import numpy as np
import pytest
from scipy import stats

from pmpjax.contexts.meta_optimization.metrics import (
    kendall,
    random_update,
    rec2ftp,
    sim_am,
    sim_aou,
    training_attention,
)

LAYERS, N, D, H, T, M = 2, 3, 5, 4, 6, 7
generator = np.random.default_rng(0)
BASE, ONE, OTHER = (generator.normal(size=(LAYERS, N, D)) for _ in range(3))
SCORES, MORE = (generator.normal(size=(LAYERS, N, H, T)) + 2 for _ in range(2))
ASKED = np.arange(T)[None] >= np.array([0, 2, 4])[:, None]


def cos(a, b):
    return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5


def unit(a):
    return a / float(a @ a) ** 0.5


def test_updates_against_loops():
    found = sim_aou(BASE, ONE, OTHER)
    for layer in range(LAYERS):
        for n in range(N):
            base, one, other = (unit(x[layer, n]) for x in (BASE, ONE, OTHER))
            assert found[layer, n] == pytest.approx(cos(one - base, other - base), abs=1e-12)


def test_an_update_is_like_itself_whatever_its_size():
    np.testing.assert_allclose(sim_aou(BASE, ONE, ONE), 1, atol=1e-12)
    np.testing.assert_allclose(sim_aou(BASE, ONE, 7 * ONE), 1, atol=1e-12)
    np.testing.assert_allclose(sim_aou(BASE, ONE, OTHER), sim_aou(BASE, OTHER, ONE), atol=1e-12)
    assert np.isnan(sim_aou(BASE, BASE, ONE)).all()


def test_random_updates_are_centred():
    base, one = (np.broadcast_to(x, (1, 4_000, 64)) for x in (np.full(64, 1.0), np.linspace(1, 2, 64)))
    found = sim_aou(base, one, random_update(base, np.random.default_rng(1)))
    assert abs(found.mean()) < 0.01 and found.std() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("kind", ["raw", "centred", "softmax"])
def test_scores_against_loops(kind):
    def prepared(row):
        if kind == "centred":
            return row - row.mean()
        return np.exp(row) / np.exp(row).sum() if kind == "softmax" else row

    found = sim_am(SCORES, MORE, ASKED, kind)
    for layer in range(LAYERS):
        for n in range(N):
            pairs = [[prepared(x[layer, n, h, ASKED[n]]) for x in (SCORES, MORE)] for h in range(H)]
            assert found[layer, n] == pytest.approx(np.mean([cos(*pair) for pair in pairs]), abs=1e-12)
    np.testing.assert_allclose(sim_am(SCORES, SCORES, ASKED, kind), 1, atol=1e-12)


def test_offsets_move_raw_scores_alone():
    offset = sim_am(SCORES + 50, MORE + 50, ASKED)
    assert offset.min() > 0.99 > sim_am(SCORES, MORE, ASKED).max()
    for kind in ("centred", "softmax"):
        moved, plain = (sim_am(SCORES + by, MORE + by, ASKED, kind) for by in (50, 0))
        np.testing.assert_allclose(moved, plain, atol=1e-9)


def test_kendall_against_counted_pairs():
    one, trained = generator.normal(size=(LAYERS, N, M)), generator.normal(size=(LAYERS, M, D))
    other = training_attention(BASE, trained)
    found = kendall(one, other)
    for layer in range(LAYERS):
        for n in range(N):
            a, b = one[layer, n], [float(BASE[layer, n] @ trained[layer, m]) for m in range(M)]
            signs = [np.sign((a[i] - a[j]) * (b[i] - b[j])) for i in range(M) for j in range(i)]
            assert found[layer, n] == pytest.approx(np.sum(signs) / len(signs), abs=1e-12)
    weights = np.exp(other) / np.exp(other).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(kendall(one, weights), found, atol=1e-12)
    assert found[0, 0] == pytest.approx(stats.kendalltau(one[0, 0], other[0, 0])[0])
    assert np.isnan(kendall(one[..., :1], other[..., :1])).all() and np.isnan(kendall(one * 0, other)).all()


def test_recovered_answers_are_counted():
    right = {
        name: np.array(list(map(bool, map(int, bits))))
        for name, bits in (("zero", "001100"), ("context", "110010"), ("tuned", "111101"))
    }
    found = rec2ftp(right["zero"], right["context"], right["tuned"])
    assert found.items == 3 and found.value == pytest.approx(200 / 3) and found.reason is None
    assert found.interval[0] <= found.value <= found.interval[1]


@pytest.mark.parametrize("zero", [False, True])
def test_without_an_item_that_training_mends_there_is_no_share(zero):
    every = np.full(4, zero)
    found = rec2ftp(every, np.ones(4, bool), every)
    assert np.isnan(found.value) and found.items == 0 and "no item is wrong zero-shot" in found.reason
    assert rec2ftp(np.zeros(1, bool), np.ones(1, bool), np.ones(1, bool)).interval is None
