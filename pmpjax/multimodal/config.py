"""Everything about a run of `pmpjax kosmos train`, and its presets."""

import dataclasses
from typing import Literal

from pmpjax.models import Kosmos, KosmosConfig, VisionConfig, magneto
from pmpjax.multimodal.boxes import PatchLocations
from pmpjax.multimodal.scene_rows import Mixture
from pmpjax.multimodal.scenes import SceneConfig
from pmpjax.train.optimizers import OptimizerConfig, rate_schedule

_MOST_STEPS = 5_000


@dataclasses.dataclass(frozen=True)
class KosmosTrainConfig:
    """Everything about a run; the defaults learn to ground in under half an hour on two cores.

    Attributes:
        preset: which sizes the options below start from; "quick" shows in two minutes that everything works, and learns
            little.
        side: P, cells along a side that boxes are written with.
        latents: embeddings that an image becomes.
        width: of the decoder.
        layers: of the decoder.
        vision_width: of the vision tower.
        vision_layers: of it.
        patch: pixels of a patch's side.
        scenes: what they look like.
        mixture: of the tasks that are taught.
        length: tokens of a row, those of the image among them.
        batch: rows of a step; each is of a scene of its own.
        steps: updates; at most 5,000.
        optimizer: AdamW.
        evaluate_every: steps between measurements of the held-out losses.
        heldout: rows that these are measured on.
        test_scenes: scenes that the tasks are measured on, and as many of held-out kinds.
        save_every: steps between checkpoints.
        keep: newest checkpoints that stay.
        seed: of the parameters, the scenes and their order.
    """

    preset: Literal["default", "quick"] = "default"
    side: int = 16
    latents: int = 16
    width: int = 128
    layers: int = 3
    vision_width: int = 96
    vision_layers: int = 2
    patch: int = 4
    scenes: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    mixture: Mixture = dataclasses.field(default_factory=Mixture)
    length: int = 56
    batch: int = 32
    steps: int = 5_000
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(1e-3, warmup_steps=100, weight_decay=0.01, schedule="cosine")
    )
    evaluate_every: int = 500
    heldout: int = 256
    test_scenes: int = 200
    save_every: int = 250
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = ("batch", "steps", "evaluate_every", "heldout", "test_scenes", "save_every", "keep", "side")
        for name in numbers:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps > _MOST_STEPS:
            raise ValueError(
                f"steps is {self.steps}, expected at most {_MOST_STEPS}; a larger model learns more of them"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.mixture.find == 0:
            raise ValueError("mixture.find is 0, and phrases are what is measured; give it a share")
        rate_schedule(self.optimizer, self.steps)  # refuses a warm-up longer than the run

    @property
    def locations(self) -> PatchLocations:
        """What boxes are written with."""
        return PatchLocations(self.side)

    def kosmos(self, vocabulary: int) -> Kosmos:
        """The model for a tokenizer of so many ids; ValueError where sizes do not fit."""
        decoder = magneto(vocabulary, self.width, 4, layers=self.layers, hidden=3 * self.width)
        vision = VisionConfig(
            self.scenes.size,
            self.patch,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=4,
            hidden=3 * self.vision_width,
        )
        return Kosmos(KosmosConfig(decoder, vision, self.latents))


PRESETS = {
    "default": KosmosTrainConfig(),
    "quick": KosmosTrainConfig(
        preset="quick",
        steps=120,
        evaluate_every=60,
        save_every=60,
        heldout=64,
        test_scenes=16,
        width=64,
        layers=2,
        vision_width=64,
    ),
}
"""Configs by the name of their preset."""
