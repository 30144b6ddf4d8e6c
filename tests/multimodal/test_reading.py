"""A tiny model that has learnt a few examples by heart: it grounds, rejects, names and describes as they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.models import Kosmos, KosmosConfig, VisionConfig, image_example_losses, magneto
from pmpjax.multimodal import PatchLocations, Span
from pmpjax.multimodal.examples import Layout, described, grounded, image_rows, location_tokenizer, referred
from pmpjax.multimodal.reading import Reader, describe, ground, option_scores
from pmpjax.multimodal.start import start

LOCATIONS = PatchLocations(4)
LEFT, RIGHT = np.array([[0.0, 0.0, 0.5, 0.5]]), np.array([[0.5, 0.25, 1.0, 1.0]])


def picture(boxes):
    image = np.zeros((8, 8, 3), np.uint8)
    for left, top, right, bottom in (boxes * 8).astype(int).tolist():
        image[top:bottom, left:right] = 255
    return image


@pytest.fixture(scope="module")
def reader():
    layout = Layout(location_tokenizer(["a disc a cross is not here"] * 3, LOCATIONS, 280), LOCATIONS, latents=4)
    vision = VisionConfig(size=8, patch=4, width=16, layers=1, heads=2, hidden=16)
    decoder = magneto(layout.tokenizer.get_vocab_size(), 32, 2, layers=2, hidden=64)
    kosmos = Kosmos(KosmosConfig(decoder, vision, layout.latents))
    examples = []
    for box, name, other in ((LEFT, "a disc", "a cross"), (RIGHT, "a cross", "a disc")):
        image = picture(box)
        examples += [
            described(image, name, [Span(0, len(name), box)], LOCATIONS),
            described(image, name, [], LOCATIONS),
            grounded(image, name, box, LOCATIONS),
            grounded(image, other, None, LOCATIONS),
            referred(image, box, name, LOCATIONS),
        ]
    rows = jax.tree.map(jnp.asarray, image_rows(examples, layout))
    params = start(kosmos, layout, rows, 0)
    losses, rule = image_example_losses(kosmos), optax.adam(optax.cosine_decay_schedule(5e-3, 300))

    @jax.jit
    def learn(params):
        def step(state, _):
            params, moments = state
            gradient = jax.grad(lambda p: losses(p, rows).mean())(params)
            updates, moments = rule.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), None

        (params, _), _ = jax.lax.scan(step, (params, rule.init(params)), None, length=300)
        return params

    params = learn(params)
    assert losses(params, rows).max() < 0.05, losses(params, rows)
    return Reader(kosmos, params, layout, batch=4)


def test_greedy_grounding_gives_the_box_that_was_learnt(reader):
    images = [picture(LEFT), picture(RIGHT)] * 3
    told = []
    found = ground(reader, images, ["a disc", "a cross"] * 3, told.append)
    expected = [LOCATIONS.decode(LOCATIONS.encode(box)) for box in (LEFT, RIGHT)] * 3
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))
    assert told == [4, 2]


def test_what_is_not_there_has_no_box(reader):
    found = ground(reader, [picture(LEFT), picture(RIGHT)], ["a cross", "a disc"])
    assert [boxes.shape for boxes in found] == [(0, 4), (0, 4)]


def test_captions_have_boxes_behind_the_switch_alone(reader):
    images = [picture(LEFT), picture(RIGHT)]
    on, off = describe(reader, images, steps=8), describe(reader, images, with_boxes=False, steps=8)
    assert [one.text for one in on] == [one.text for one in off] == ["a disc", "a cross"]
    assert [len(one.spans) for one in on] == [1, 1] and [len(one.spans) for one in off] == [0, 0]


def test_a_box_is_named_by_the_best_option(reader):
    images, boxes = [picture(LEFT), picture(RIGHT)], np.concatenate([LEFT, RIGHT])
    told = []
    scores = option_scores(reader, images, boxes, [["a disc", "a cross"]] * 2, told.append)
    assert told == [4]
    assert scores.shape == (2, 2) and scores.argmax(axis=1).tolist() == [0, 1] and (scores <= 0).all()


def test_phrases_without_words_are_refused(reader):
    with pytest.raises(ValueError, match="empty"):
        ground(reader, [picture(LEFT)], [" "])


def test_a_model_of_nan_is_no_model_that_finds_nothing(reader):
    broken = dataclasses.replace(reader, params=jax.tree.map(lambda leaf: leaf * jnp.nan, reader.params))
    with pytest.raises(ValueError, match="not finite"):
        ground(broken, [picture(LEFT)], ["a disc"])
