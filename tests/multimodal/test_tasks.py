"""Metrics against hand-made boxes, the ceiling against the codec, questions against their scenes."""

import numpy as np
import pytest

from pmpjax.multimodal import CoordinateLocations, PatchLocations
from pmpjax.multimodal.scenes import HELD_OUT, SceneConfig, draw_scene
from pmpjax.multimodal.tasks import (
    absent_questions,
    blanked,
    ceiling,
    mean_iou,
    phrase_questions,
    recall,
    referring_questions,
    rejection,
    scene_sets,
)

WHOLE, HALF, QUARTER = (np.array([[0.0, 0.0, 1.0, y]]) for y in (1.0, 0.5, 0.25))
NONE = np.zeros((0, 4))
SCENES = [draw_scene(0, index) for index in range(30)]


def test_recall_takes_any_of_the_first_boxes_and_any_true_one():
    assert recall([HALF], [WHOLE]) == 1.0  # an IoU of exactly 0.5 is a hit
    assert recall([QUARTER, NONE], [WHOLE, WHOLE]) == 0.0
    both = np.concatenate([QUARTER, WHOLE])
    assert [recall([both], [WHOLE], k) for k in (1, 2)] == [0.0, 1.0]
    assert recall([WHOLE], [both]) == 1.0


def test_a_phrase_without_a_true_box_is_no_grounding_question():
    with pytest.raises(ValueError, match="phrase 1 has no true box"):
        recall([WHOLE, NONE], [WHOLE, NONE])
    with pytest.raises(ValueError, match="2 answers to 1 phrases"):
        recall([WHOLE, NONE], [WHOLE])


def test_misses_count_as_no_overlap():
    assert mean_iou([HALF, NONE], [WHOLE, WHOLE]) == 0.25
    assert rejection([HALF, NONE, NONE, NONE]) == 0.75


def test_the_ceiling_is_the_codecs_and_finer_locations_raise_it():
    gold = [one.boxes for one in phrase_questions(SCENES)]
    coarse, fine, finest = (ceiling(gold, PatchLocations(side)) for side in (4, 8, 32))
    assert coarse["mean_iou"] < fine["mean_iou"] < finest["mean_iou"]
    assert ceiling(gold, CoordinateLocations())["mean_iou"] > 0.98
    # Sides of 8 to 14 pixels on cells of 2: half a cell at each edge leaves (8 - 2) (8 - 2) / 64 at least.
    assert ceiling(gold, PatchLocations(16)) == {"recall": 1.0, "mean_iou": pytest.approx(0.72, abs=0.16)}


def test_questions_are_those_of_their_scenes():
    phrases = phrase_questions(SCENES)
    assert len(phrases) == sum(len(scene.kinds) for scene in SCENES)
    assert len(phrase_questions(SCENES, first=True)) == len(SCENES)
    assert all(one.phrase.startswith("the shape ") and one.boxes.shape == (1, 4) for one in referring_questions(SCENES))
    for scene, one in zip(SCENES, absent_questions(SCENES, 0), strict=True):
        assert one.phrase not in [f"a {kind}" for kind in scene.kinds] and not len(one.boxes)
    blank = blanked(phrases)
    assert all(np.ptp(one.image) == 0 for one in blank) and blank[0].phrase == phrases[0].phrase


def test_sets_are_of_scenes_that_training_does_not_have():
    sets = scene_sets(20, 0, SceneConfig())
    assert all(set(scene.kinds).isdisjoint(HELD_OUT) for scene in sets.known)
    assert all(scene.kinds[0] in HELD_OUT for scene in sets.held_out)
    assert not any(np.array_equal(sets.known[i].image, SCENES[i].image) for i in range(20))
