"""Tasks on scenes and their metrics: phrase grounding, referring comprehension and generation, rejection."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from pmpjax.multimodal.boxes import Locations, box_iou
from pmpjax.multimodal.examples import Example
from pmpjax.multimodal.markup import GROUNDING
from pmpjax.multimodal.reading import CAPTION_STEPS, Reader, ground, option_scores, write
from pmpjax.multimodal.scenes import KINDS, Scene, SceneConfig, absent_kinds, draw_scene, expressions

HIT = 0.5
"""The IoU from which a box counts as right."""


class Question(NamedTuple):
    """Where is it?

    Fields:
        image: [S, S, 3].
        phrase: to find.
        boxes: [n, 4] where it is; n = 0 where nothing fits it.
    """

    image: UInt8[np.ndarray, "s s 3"]
    phrase: str
    boxes: Float[np.ndarray, "n 4"]


def recall(found: Sequence[np.ndarray], gold: Sequence[np.ndarray], k: int = 1) -> float:
    """R@k: the share of phrases of which any of the first k boxes has an IoU >= 0.5 with any true one.

    A phrase without a box found is a miss; k = 1 is the accuracy at IoU 0.5 of referring comprehension.

    >>> half, whole = np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([[0.0, 0.0, 1.0, 1.0]])
    >>> recall([half, half[:0]], [whole, whole])
    0.5
    """
    if len(found) != len(gold) or not len(gold):
        raise ValueError(f"{len(found)} answers to {len(gold)} phrases, expected as many and at least one")
    empty = [number for number, boxes in enumerate(gold) if not len(boxes)]
    if empty:
        raise ValueError(f"phrase {empty[0]} has no true box; phrases that fit nothing belong to `rejection`")
    hits = [len(boxes) > 0 and box_iou(boxes[:k], true).max() >= HIT for boxes, true in zip(found, gold, strict=True)]
    return float(np.mean(hits))


def mean_iou(found: Sequence[np.ndarray], gold: Sequence[np.ndarray]) -> float:
    """The mean over phrases of the first box's largest IoU with a true one; 0 without a box."""
    values = [box_iou(boxes[:1], true).max() if len(boxes) else 0.0 for boxes, true in zip(found, gold, strict=True)]
    return float(np.mean(values))


def rejection(found: Sequence[np.ndarray]) -> float:
    """The share of phrases without a box: high is good where nothing fits them, low where something does."""
    return float(np.mean([not len(boxes) for boxes in found]))


def ceiling(gold: Sequence[np.ndarray], locations: Locations) -> dict[str, float]:
    """R@1 and mean IoU of true boxes that went to location tokens and back: what no model can exceed but by luck."""
    found = [locations.decode(locations.encode(boxes)) for boxes in gold]
    return {"recall": recall(found, gold), "mean_iou": mean_iou(found, gold)}


def phrase_questions(scenes: Sequence[Scene], first: bool = False) -> list[Question]:
    """ "a red square" for each object of each scene, or for the first of each alone."""
    return [
        Question(scene.image, f"a {kind}", scene.boxes[number : number + 1])
        for scene in scenes
        for number, kind in enumerate(scene.kinds[: 1 if first else None])
    ]


def referring_questions(scenes: Sequence[Scene]) -> list[Question]:
    """ "the shape left of a blue disc": every expression of each scene that one object fits."""
    return [Question(scene.image, one.text, one.spans[0].boxes) for scene in scenes for one in expressions(scene)]


def absent_questions(scenes: Sequence[Scene], seed: int) -> list[Question]:
    """For each scene one kind that it does not have."""
    random, questions = np.random.Generator(np.random.PCG64([seed, 3])), []
    for scene in scenes:
        kinds = absent_kinds(scene)
        phrase = f"a {kinds[int(random.integers(len(kinds)))]}"
        questions.append(Question(scene.image, phrase, np.zeros((0, 4))))
    return questions


def blanked(questions: Sequence[Question]) -> list[Question]:
    """The same questions of images of one grey: what can be guessed without looking."""
    return [one._replace(image=np.full_like(one.image, 128)) for one in questions]


class Sets(NamedTuple):
    """Scenes to measure on: of a seed that no training scene has, and with kinds that none has."""

    known: Sequence[Scene]
    held_out: Sequence[Scene]


def scene_sets(count: int, seed: int, config: SceneConfig) -> Sets:
    """`count` scenes of each kind, of a seed of their own."""
    own = seed + 1_000_003
    known = [draw_scene(own, index, config) for index in range(count)]
    return Sets(known, [draw_scene(own, index, config, held_out=True) for index in range(count)])


def asked_in_all(sets: Sets) -> int:
    """What `measure` tells `asked` in all: phrases, and options of names."""
    twice = len(phrase_questions(sets.known)) + len(referring_questions(sets.known))
    scenes = len(sets.known) + len(sets.held_out)
    return 2 * twice + scenes + len(KINDS) * scenes


def measure(reader: Reader, sets: Sets, seed: int, asked: Callable[[int], None] = lambda rows: None) -> dict[str, Any]:
    """Every task on the sets.

    Keys: `recall` and `mean_iou` {phrases, phrases_blank, phrases_ceiling, referring, referring_blank, held_out,
    held_out_ceiling}, those of referring where a scene has two objects; `rejection` {absent, phrases}; `naming`
    {accuracy, held_out, chance}, by options; `switch` {with_boxes, without}: the share of captions that have a box;
    `asked`: how many.
    """
    locations = reader.layout.locations
    asks = {"phrases": phrase_questions(sets.known), "referring": referring_questions(sets.known)}
    asks["held_out"] = phrase_questions(sets.held_out, first=True)
    asks = {name: questions for name, questions in asks.items() if questions}  # lone objects have no relation
    asks |= {f"{name}_blank": blanked(asks[name]) for name in ("phrases", "referring") if name in asks}
    found = {name: _answers(reader, questions, asked) for name, questions in asks.items()}
    gold = {name: [one.boxes for one in questions] for name, questions in asks.items()}
    shares = {name: recall(found[name], gold[name]) for name in asks}
    overlaps = {name: mean_iou(found[name], gold[name]) for name in asks}
    for name in ("phrases", "held_out"):
        most = ceiling(gold[name], locations)
        shares[f"{name}_ceiling"], overlaps[f"{name}_ceiling"] = most["recall"], most["mean_iou"]
    absent = _answers(reader, absent_questions(sets.known, seed), asked)
    return {
        "recall": shares,
        "mean_iou": overlaps,
        "rejection": {"absent": rejection(absent), "phrases": rejection(found["phrases"])},
        "naming": {
            "accuracy": _naming(reader, sets.known, asked),
            "held_out": _naming(reader, sets.held_out, asked),
            "chance": 1 / len(KINDS),
        },
        "switch": {
            name: _with_boxes(reader, sets.known, on) for name, on in (("with_boxes", True), ("without", False))
        },
        "asked": {name: len(questions) for name, questions in asks.items()},
    }


def _answers(reader: Reader, questions: Sequence[Question], asked: Callable[[int], None]) -> list[np.ndarray]:
    return ground(reader, [one.image for one in questions], [one.phrase for one in questions], asked)


def _naming(reader: Reader, scenes: Sequence[Scene], asked: Callable[[int], None]) -> float:
    """The first object's kind among all kinds, by the log-probabilities of their names."""
    names = [f"a {kind}" for kind in KINDS]
    boxes = np.stack([scene.boxes[0] for scene in scenes])
    scores = option_scores(reader, [scene.image for scene in scenes], boxes, [names] * len(scenes), asked)
    return float(np.mean([KINDS[best] == scene.kinds[0] for best, scene in zip(scores.argmax(1), scenes, strict=True)]))


def _with_boxes(reader: Reader, scenes: Sequence[Scene], on: bool) -> float:
    """Captions with a box, by a model that may write one with or without the switch."""
    examples = [Example(scene.image, GROUNDING if on else "", "") for scene in scenes]
    captions = write(reader, examples, CAPTION_STEPS)
    return float(np.mean([len(one.spans) > 0 for one in captions]))
