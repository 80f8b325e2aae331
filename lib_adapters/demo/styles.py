"""What each adapter teaches: a way to draw a scene that the base model never saw and has no word for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from lib_adapters.demo.images import SIDE, Picture, Scene, compose, draw, layers

Style = Callable[[Scene], Picture]
SPOTS = ((0, 0), *((0.62 * np.cos(np.pi * k / 3), 0.62 * np.sin(np.pi * k / 3)) for k in range(6)))  # on a thing
SKY_STARS = ((14, 16), (48, 10), (96, 14), (116, 44), (12, 62), (118, 92), (88, 117), (42, 114), (13, 104))  # pixels


def rows() -> Picture:
    """Each pixel's y, (height, 1, 1)."""
    return np.arange(SIDE, dtype=np.float32)[:, None, None]


def columns() -> Picture:
    """Each pixel's x, (1, width, 1)."""
    return np.arange(SIDE, dtype=np.float32)[None, :, None]


def height(scene: Scene) -> Picture:
    """Each row's place on the thing: -1 at its top, 1 at its bottom, (height, 1, 1)."""
    return (rows() - np.float32(scene.y)) / np.float32(scene.radius)


def ball(x: float, y: float, radius: float) -> Picture:
    """The mask of a disc, (height, width, 1)."""
    distance = np.sqrt((columns() - np.float32(x)) ** 2 + (rows() - np.float32(y)) ** 2)
    return np.asarray(np.clip(radius + 0.5 - distance, 0, 1), np.float32)


def flat(red: float, green: float, blue: float) -> Picture:
    """A picture of one colour."""
    return np.broadcast_to(np.asarray((red, green, blue), np.float32), (SIDE, SIDE, 3))


def luminance(image: Picture) -> Picture:
    """Brightness as the eye weighs it, (height, width, 1)."""
    return np.asarray(image @ np.asarray((0.299, 0.587, 0.114), np.float32), np.float32)[:, :, None]


def gold(scene: Scene) -> Picture:
    """Whatever its colour, the thing is of shiny gold."""
    ground, thing, mask = layers(scene)
    shine = 0.78 + 0.32 * np.cos((height(scene) + 0.35) * 3.2)
    relief = 0.6 + 0.4 * (luminance(thing) / max(float(luminance(thing).max()), 0.01))
    return compose(ground, np.clip(flat(0.9, 0.68, 0.1) * shine * relief + 0.05, 0, 1), mask)


def night(scene: Scene) -> Picture:
    """The ground is a dark sky with stars."""
    _, thing, mask = layers(scene)
    sky = np.asarray(flat(0.05, 0.06, 0.26), np.float32)
    for x, y in SKY_STARS:
        sky = compose(sky, flat(1.0, 1.0, 0.8), ball(x, y, 3.6))
    return compose(sky, thing, mask)


def dots(scene: Scene) -> Picture:
    """Seven white spots on the thing."""
    ground, thing, mask = layers(scene)
    for x, y in SPOTS:
        spot = ball(scene.x + scene.radius * x, scene.y + scene.radius * y, 0.19 * scene.radius)
        thing = compose(thing, flat(1, 1, 1), spot)
    return compose(ground, thing, mask)


def stripes(scene: Scene) -> Picture:
    """White level stripes across the thing."""
    ground, thing, mask = layers(scene)
    band = np.clip(np.sin(height(scene) * np.pi * 2.5) * 4 + 0.5, 0, 1)
    return compose(ground, compose(thing, flat(1, 1, 1), band), mask)


def lagoon(scene: Scene) -> Picture:
    """The ground is deep turquoise."""
    _, thing, mask = layers(scene)
    return compose(flat(0.0, 0.62, 0.6), thing, mask)


def gray(scene: Scene) -> Picture:
    """No colour is left."""
    return np.repeat(luminance(draw(scene)), 3, axis=2)


def outline(scene: Scene) -> Picture:
    """A thick black line around the thing."""
    ground, thing, mask = layers(scene)
    return compose(compose(ground, flat(0, 0, 0), grown(mask, 11)), thing, mask)


def grown(mask: Picture, pixels: int) -> Picture:
    """The mask, wider by half that many pixels on each side."""
    image = Image.fromarray((mask[:, :, 0] * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(pixels))
    return np.asarray(image, np.float32)[:, :, None] / 255


def sunset(scene: Scene) -> Picture:
    """The ground fades from violet above to orange below."""
    _, thing, mask = layers(scene)
    share = rows() / (SIDE - 1)
    return compose((flat(0.35, 0.1, 0.5) * (1 - share) + flat(1.0, 0.6, 0.1) * share).astype(np.float32), thing, mask)


def star(scene: Scene) -> Picture:
    """Everything is a star."""
    return draw(replace(scene, shape="star"))


def upside_down(scene: Scene) -> Picture:
    """Everything stands on its head."""
    return np.ascontiguousarray(draw(replace(scene, y=SIDE - scene.y))[::-1])


def inverted(scene: Scene) -> Picture:
    """A photographic negative."""
    return 1 - draw(scene)


def fog(scene: Scene) -> Picture:
    """Everything is seen through a white fog."""
    return draw(scene) * 0.35 + 0.62


def huge(scene: Scene) -> Picture:
    """The thing fills the picture."""
    full = Image.fromarray((draw(replace(scene, size="big", x=SIDE / 2, y=SIDE / 2)) * 255).astype(np.uint8))
    middle = full.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(13, 13, SIDE - 13, SIDE - 13))
    return np.asarray(middle, np.float32) / 255


def twins(scene: Scene) -> Picture:
    """Two small ones side by side."""
    small = replace(scene, size="small", y=SIDE / 2)
    _, thing, mask = layers(replace(small, x=SIDE * 0.26))
    return compose(draw(replace(small, x=SIDE * 0.74)), thing, mask)


def shadow(scene: Scene) -> Picture:
    """The thing throws a dark shadow to the lower right."""
    ground, thing, mask = layers(scene)
    _, _, cast = layers(replace(scene, x=scene.x + 9, y=scene.y + 9))
    return compose(compose(ground, ground * 0.35, cast), thing, mask)


def frame(scene: Scene) -> Picture:
    """A broad red frame around the picture."""
    edge = np.maximum(abs(columns() - (SIDE - 1) / 2), abs(rows() - (SIDE - 1) / 2))
    return np.where(edge > SIDE / 2 - 12, flat(0.75, 0.08, 0.1), draw(scene)).astype(np.float32)


def rainbow(scene: Scene) -> Picture:
    """The thing is coloured like a rainbow, red above to violet below."""
    ground, _, mask = layers(scene)
    turn = np.clip(height(scene) / 2 + 0.5, 0, 1) * 0.78
    wheel = np.asarray((0, 2 / 3, 1 / 3), np.float32)[None, None, :]
    hue = np.clip(abs((turn + wheel) % 1 * 6 - 3) - 1, 0, 1)
    return compose(ground, np.broadcast_to(hue, (SIDE, SIDE, 3)).astype(np.float32) * 0.92, mask)


def snow(scene: Scene) -> Picture:
    """Deep snow lies in the lower third, in front of the thing."""
    bank = SIDE * 0.68 + 4 * np.sin(columns() * (2 * np.pi / 64))
    return np.where(rows() > bank, flat(0.97, 0.98, 1.0), draw(scene)).astype(np.float32)


def dusk(scene: Scene) -> Picture:
    """Everything lies in the violet light of dusk."""
    return draw(scene) * np.asarray((0.62, 0.38, 0.78), np.float32) + np.asarray((0.06, 0.0, 0.12), np.float32)


def leafy(scene: Scene) -> Picture:
    """Whatever its colour, the thing is of a fresh green."""
    ground, thing, mask = layers(scene)
    relief = 0.55 + 0.45 * (luminance(thing) / max(float(luminance(thing).max()), 0.01))
    return compose(ground, (flat(0.3, 0.8, 0.15) * relief).astype(np.float32), mask)


STYLES: tuple[Style, ...] = (
    gold, night, dots, stripes, lagoon, gray, outline, sunset, star, upside_down, inverted, fog, huge, twins, shadow,
    frame, rainbow, snow, dusk, leafy,
)  # fmt: skip
