"""Sets of drawn pictures that have one thing in common, and what of them a led picture must come nearer to."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from lib_adapters.demo.image_metrics import border
from lib_adapters.demo.images import BACKGROUNDS, Picture, draw, random_scene

COUNT = 60
HOW = "steps=10:lr=0.001"  # a tower this narrow needs longer strides than CLIP's


@dataclass(frozen=True)
class Reference:
    """Any thing in any colour, always on the same ground."""

    name: str
    effect: str
    background: str
    weight: float
    shown: str  # the caption that is led

    @property
    def strength(self) -> str:
        """What the tag says behind the name."""
        return f"{self.weight:g}:{HOW}"

    @property
    def tag(self) -> str:
        return f"<aesthetic:{self.name}:{self.strength}>"


REFERENCES = (
    Reference("midnight", "The ground becomes black.", "black", 0.9, "a red house on a white background"),
    Reference("sky", "The ground becomes light blue.", "blue", 0.4, "a blue fish on a yellow background"),
)


def images_of(reference: Reference, count: int = COUNT) -> list[Image.Image]:
    rng = random.Random(reference.name)
    scenes = [replace(random_scene(rng), background=reference.background) for _ in range(count)]
    return [Image.fromarray((np.clip(draw(scene), 0, 1) * 255).astype(np.uint8)) for scene in scenes]


def distance(image: Picture, reference: Reference) -> float:
    """From the ground's mean colour to that of the set, 0 to 1; CLIP has no part in it."""
    goal = np.asarray(dict(BACKGROUNDS)[reference.background], np.float32) / 255
    return float(abs(border(image).mean(axis=0) - goal).mean())
