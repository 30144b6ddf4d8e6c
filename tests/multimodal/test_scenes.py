"""Generated scenes: boxes against pixels, the same bytes from a seed, held-out kinds, texts against what is drawn."""

import numpy as np
import pytest

from pmpjax.multimodal.scenes import (
    COLOURS,
    HELD_OUT,
    KINDS,
    SHAPES,
    Kind,
    Scene,
    SceneConfig,
    absent_kinds,
    caption,
    draw_scene,
    expressions,
    relation,
    shape_mask,
)


def _box(x, y):
    return np.array([x - 1, y - 1, x + 1, y + 1]) / 10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_touches_every_edge_of_its_box(shape):
    for side in range(3, 20):
        mask = shape_mask(shape, side)
        assert mask.shape == (side, side)
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


def test_shapes_differ_at_the_smallest_side_of_a_scene():
    masks = [shape_mask(shape, SceneConfig().least) for shape in SHAPES]
    assert all((a != b).sum() >= 8 for i, a in enumerate(masks) for b in masks[:i])


def test_boxes_are_those_of_the_pixels_drawn():
    """An object's colour is no other's here, so that its pixels are found by their colour."""
    checked = 0
    for index in range(60):
        scene = draw_scene(3, index)
        for kind, box in zip(scene.kinds, scene.boxes, strict=True):
            if [one.colour for one in scene.kinds].count(kind.colour) == 1:
                rows, columns = np.nonzero((scene.image == COLOURS[kind.colour]).all(axis=-1))
                found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_array_equal(np.array(found) / 32, box)
                checked += 1
    assert checked > 60


def test_a_seed_and_an_index_give_the_same_scene_and_others_another():
    one, again, other = draw_scene(0, 5), draw_scene(0, 5), draw_scene(1, 5)
    np.testing.assert_array_equal(one.image, again.image)
    assert one.kinds == again.kinds and not np.array_equal(one.image, other.image)


def test_held_out_kinds_are_in_no_training_scene_and_lead_every_test_scene():
    assert {kind.colour for kind in HELD_OUT} <= set(COLOURS) and {kind.shape for kind in HELD_OUT} == set(SHAPES)
    for index in range(100):
        scene = draw_scene(0, index)
        assert set(scene.kinds).isdisjoint(HELD_OUT) and len(set(scene.kinds)) == len(scene.kinds)
        assert draw_scene(0, index, held_out=True).kinds[0] in HELD_OUT
        assert set(absent_kinds(scene)) == set(KINDS) - set(HELD_OUT) - set(scene.kinds)


def test_a_caption_has_each_phrase_at_its_span():
    scene = next(scene for scene in (draw_scene(0, i) for i in range(99)) if len(scene.kinds) == 3)
    found = caption(scene, [2, 0, 1])
    phrases = [found.text[span.begin : span.end] for span in found.spans]
    assert phrases == [f"a {scene.kinds[i]}" for i in (2, 0, 1)]
    assert found.text.replace(" and ", " ").startswith(f"{phrases[0]} {relation(scene.boxes[2], scene.boxes[0])} ")
    np.testing.assert_array_equal(found.spans[0].boxes, scene.boxes[2:3])


@pytest.mark.parametrize(
    ("centre", "expected"), [((1, 5), "left of"), ((9, 5), "right of"), ((5, 1), "above"), ((5, 9), "below")]
)
def test_relations(centre, expected):
    assert relation(_box(*centre), _box(5, 5)) == expected


def test_an_expression_fits_one_object_alone():
    kinds = (Kind("red", "disc"), Kind("blue", "disc"), Kind("green", "cross"))
    scene = Scene(np.zeros((8, 8, 3), np.uint8), kinds, np.stack([_box(5, 5), _box(2, 5), _box(3, 6)]))
    found = {one.text: one.objects[0] for one in expressions(scene)}
    assert "the shape left of a red disc" not in found  # two are
    assert found["the shape right of a green cross"] == 0
    for index in range(40):
        scene = draw_scene(0, index)
        for one in expressions(scene):
            words = one.text.removeprefix("the shape ").rsplit(" a ", 1)
            anchor = [str(kind) for kind in scene.kinds].index(words[1])
            fits = [
                number
                for number in range(len(scene.kinds))
                if number != anchor and relation(scene.boxes[number], scene.boxes[anchor]) == words[0]
            ]
            assert fits == list(one.objects)


@pytest.mark.parametrize("changes", [{"least": 2}, {"most": 20}, {"least": 12, "most": 10}, {"objects": 9}])
def test_sizes_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        SceneConfig(**changes)


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="'star'"):
        shape_mask("star", 5)
