"""Captioned pictures: what the embedded model is trained to draw, and the styles its adapters add to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lib_adapters.demo.outlines import SHAPES, parts_of

Picture = NDArray[np.float32]  # (height, width, 3), 0 to 1
Colour = tuple[int, int, int]

SIDE = 128
OVERSAMPLING = 3
SHAPE_NAMES = tuple(shape.__name__ for shape in SHAPES)
COLOURS: tuple[tuple[str, Colour], ...] = (
    ("red", (214, 38, 38)), ("orange", (245, 130, 25)), ("yellow", (250, 214, 40)), ("green", (40, 150, 60)),
    ("blue", (35, 85, 205)), ("purple", (130, 55, 170)), ("pink", (245, 110, 170)), ("brown", (125, 75, 40)),
)  # fmt: skip
BACKGROUNDS: tuple[tuple[str, Colour], ...] = (
    ("white", (250, 250, 250)), ("gray", (170, 172, 176)), ("blue", (165, 215, 245)), ("green", (180, 230, 180)),
    ("yellow", (252, 242, 190)), ("pink", (250, 208, 222)), ("black", (28, 28, 34)),
)  # fmt: skip
FIXED_PAINTS: tuple[tuple[str, Colour], ...] = (
    ("brown", (96, 60, 36)), ("cream", (255, 246, 214)), ("ink", (20, 20, 24)),
)  # fmt: skip
ROOM = 4  # pixels that a thing may be off the centre
RADII: tuple[tuple[str, int], ...] = (("small", 24), ("", 36), ("big", 50))


@dataclass(frozen=True)
class Scene:
    """One thing on a plain ground; x and y are its centre in pixels."""

    shape: str
    colour: str
    background: str
    size: str = ""
    x: float = SIDE / 2
    y: float = SIDE / 2

    @property
    def caption(self) -> str:
        """The text the model is trained with: "a big red house on a gray background"."""
        words = ["a", self.size, self.colour, self.shape, "on a", self.background, "background"]
        return " ".join(word for word in words if word)

    @property
    def radius(self) -> int:
        """Half the side of the square that holds the shape."""
        return dict(RADII)[self.size]


def random_scene(rng: random.Random) -> Scene:
    """Any thing in any colour on any ground, a little off the centre."""
    colour, background = rng.choice(COLOURS)[0], rng.choice(BACKGROUNDS)[0]
    scene = Scene(rng.choice(SHAPE_NAMES), colour, background, rng.choice(("small", "", "", "big")))
    return replace(scene, x=SIDE / 2 + rng.uniform(-ROOM, ROOM), y=SIDE / 2 + rng.uniform(-ROOM, ROOM))


def every_caption() -> list[str]:
    """All texts that a random scene can have."""
    return [
        Scene(shape, colour, background, size).caption
        for shape in SHAPE_NAMES
        for colour, _ in COLOURS
        for background, _ in BACKGROUNDS
        for size, _ in RADII
    ]


def paint(scene: Scene, name: str) -> Colour:
    """The colour of one part of a scene's thing."""
    main = dict(COLOURS)[scene.colour]
    if name == "main":
        return main
    if name == "dark":
        return (int(main[0] * 0.6), int(main[1] * 0.6), int(main[2] * 0.6))
    return dict(FIXED_PAINTS)[name]


def outline_of(scene: Scene, points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """A part's polygon in the pixels of the oversampled drawing."""
    scale, left, top = scene.radius * OVERSAMPLING, scene.x * OVERSAMPLING, scene.y * OVERSAMPLING
    return [(left + scale * x, top + scale * y) for x, y in points]


def layers(scene: Scene) -> tuple[Picture, Picture, Picture]:
    """The ground, the thing's colours, and the thing's mask (height, width, 1), all antialiased."""
    big = SIDE * OVERSAMPLING
    thing = Image.new("RGB", (big, big), dict(COLOURS)[scene.colour])
    mask = Image.new("L", (big, big), 0)
    for part in parts_of(scene.shape):
        ImageDraw.Draw(thing).polygon(outline_of(scene, part.points), fill=paint(scene, part.paint))
        ImageDraw.Draw(mask).polygon(outline_of(scene, part.points), fill=255)
    ground = np.empty((SIDE, SIDE, 3), np.float32)
    ground[:] = np.asarray(dict(BACKGROUNDS)[scene.background], np.float32) / 255
    return ground, shrink(thing), shrink(mask)[:, :, None]


def shrink(image: Image.Image) -> Picture:
    """An oversampled drawing at its final size, 0 to 1."""
    return np.asarray(image.reduce(OVERSAMPLING), np.float32) / 255


def compose(ground: Picture, thing: Picture, mask: Picture) -> Picture:
    """The thing laid over its ground."""
    return np.asarray(ground * (1 - mask) + thing * mask, np.float32)


def draw(scene: Scene) -> Picture:
    """The picture that belongs to the scene's caption."""
    return compose(*layers(scene))
