"""Rows of scenes: shares of the mixture, the same rows from a seed, what is given and asked, words as tokens."""

import numpy as np
import pytest

from pmpjax.multimodal import PatchLocations
from pmpjax.multimodal.examples import NOT_HERE, Layout
from pmpjax.multimodal.scene_rows import RELATIONS, Mixture, SceneRows, scene_example, scene_tokenizer
from pmpjax.multimodal.scenes import COLOURS, SHAPES, SceneConfig, draw_scene

LOCATIONS = PatchLocations(16)


@pytest.fixture(scope="module")
def layout():
    return Layout(scene_tokenizer(LOCATIONS), LOCATIONS)


def drawn(mixture, count=300):
    random = np.random.default_rng(0)
    return [scene_example(draw_scene(0, index), random, LOCATIONS, mixture) for index in range(count)]


def kind_of(example):
    if not example.prompt:
        return "plain"
    if example.prompt == "<grounding>":
        return "caption"
    if example.answer == NOT_HERE:
        return "absent"
    return "find" if example.answer.startswith("<object>") else "name"


def test_shares_are_those_of_the_mixture():
    kinds = [kind_of(example) for example in drawn(Mixture())]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in ("plain", "find", "name", "absent", "caption")}
    expected = {"plain": 0.1, "find": 0.4, "name": 0.1, "absent": 0.1, "caption": 0.3}
    assert shares == pytest.approx(expected, abs=0.09)


@pytest.mark.parametrize("kind", ["plain", "find", "name", "absent"])
def test_a_mixture_of_one_kind_has_that_alone(kind):
    shares = dict.fromkeys(("plain", "find", "name", "absent"), 0.0) | {kind: 1.0}
    assert {kind_of(example) for example in drawn(Mixture(**shares), 40)} == {kind}


def test_boxes_are_written_behind_the_switch_alone():
    for example in drawn(Mixture(plain=0.4)):
        assert ("<object>" in example.prompt + example.answer) <= example.prompt.startswith("<grounding>")


def test_rows_fit_and_come_again(layout):
    rows, again = (SceneRows(200, 5, layout, 56) for _ in range(2))
    for index in range(200):
        row = rows[index]
        assert row["predicted"].sum() > 1 and row["images"].shape == (1, 32, 32, 3)
    np.testing.assert_array_equal(rows[7]["tokens"], again[7]["tokens"])
    with pytest.raises(IndexError):
        rows[200]


def test_scenes_of_one_object_have_no_relation_to_ask_about(layout):
    rows = SceneRows(20, 0, layout, 56, SceneConfig(objects=1), Mixture(0.0, 1.0, 0.0, 0.0))
    assert not any("the shape" in layout.text(rows[index]["tokens"][19:]) for index in range(20))


def test_a_word_is_a_token(layout):
    words = [f" {word}" for word in [*COLOURS, *SHAPES, "a", "and", "shape", *" ".join(RELATIONS).split()]]
    assert all(len(layout.ids(word)) == 1 for word in words)


@pytest.mark.parametrize("shares", [{"plain": -0.1}, {"find": 0.9}])
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(ValueError, match="at most 1"):
        Mixture(**shares)
