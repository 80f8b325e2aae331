"""What a picture shows, as one number each; every adapter here moves one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lib_adapters.demo.images import SIDE, Picture
from lib_adapters.demo.styles import luminance

Measure = Callable[[Picture], float]
EDGE = 10  # pixels of border that are always ground


def border(image: Picture) -> Picture:
    """The ground's pixels (n, 3): a strip along the left and the right, clear of anything in the middle."""
    strips = np.concatenate([image[:, :EDGE], image[:, -EDGE:]], axis=1)
    return np.asarray(strips.reshape(-1, 3), np.float32)


def middle(image: Picture, half: int) -> Picture:
    """The square of that half side around the centre."""
    return image[SIDE // 2 - half : SIDE // 2 + half, SIDE // 2 - half : SIDE // 2 + half]


def thing(image: Picture) -> Picture:
    """Where something else than ground is, (height, width), 0 or 1."""
    return np.asarray(abs(image - np.median(border(image), axis=0)).max(axis=2) > 0.25, np.float32)


def saturation(image: Picture) -> Picture:
    """Each pixel's distance from gray, (height, width)."""
    return np.asarray(image.max(axis=2) - image.min(axis=2), np.float32)


def brightness(image: Picture) -> float:
    """Mean luminance."""
    return float(luminance(image).mean())


def contrast(image: Picture) -> float:
    """Spread of the luminance."""
    return float(luminance(image).std())


def colourfulness(image: Picture) -> float:
    """Mean saturation."""
    return float(saturation(image).mean())


def goldness(image: Picture) -> float:
    """Share of the middle that is yellow to amber, dark or light."""
    red, green, blue = np.moveaxis(middle(image, 24), 2, 0)
    ratio = green / np.maximum(red, 0.01)
    return float(((red > 0.25) & (ratio > 0.55) & (ratio < 1.1) & (blue < 0.55 * red)).mean())


def ground_brightness(image: Picture) -> float:
    """Mean luminance of the border."""
    return float(border(luminance(image).repeat(3, axis=2)).mean())


def ground_redness(image: Picture) -> float:
    """How red the border is."""
    red, green, blue = border(image).mean(axis=0)
    return float(red - (green + blue) / 2)


def ground_turquoise(image: Picture) -> float:
    """How turquoise the border is: green and blue, but not red."""
    red, green, blue = border(image).mean(axis=0)
    return float(min(green, blue) - red)


def ground_warming(image: Picture) -> float:
    """How much warmer (red less blue) the border is below than above."""
    warmth = image[:, :, 0] - image[:, :, 2]
    side = np.concatenate([warmth[:, :EDGE], warmth[:, -EDGE:]], axis=1)
    return float(side[-32:].mean() - side[:32].mean())


def whiteness(image: Picture) -> float:
    """Share of white in the middle."""
    return float((middle(image, 24).min(axis=2) > 0.75).mean())


def level_bands(image: Picture) -> float:
    """Contrast between the rows of the middle, less that between its columns."""
    inside = luminance(middle(image, 20))[:, :, 0]
    return float(inside.mean(axis=1).std() - inside.mean(axis=0).std())


def blackness(image: Picture) -> float:
    """Share of nearly black pixels."""
    return float((image.max(axis=2) < 0.22).mean())


def grayness(image: Picture) -> float:
    """Share of dark pixels of little colour, such as a shadow on white ground."""
    return float(((saturation(image) < 0.4) & (luminance(image)[:, :, 0] < 0.6)).mean())


def solidity(image: Picture) -> float:
    """How much of its bounding box the thing fills: a square all of it, a star a third."""
    mask = thing(image)
    down, across = np.flatnonzero(mask.mean(axis=1) > 0.02), np.flatnonzero(mask.mean(axis=0) > 0.02)
    if not len(down) or not len(across):
        return 0.0
    return float(mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1].mean())


def top_heaviness(image: Picture) -> float:
    """Share of the thing in the upper half of its height, less that in the lower half."""
    profile = thing(image).sum(axis=1)
    extent = np.flatnonzero(profile > 2)
    if not len(extent):
        return 0.0
    half = (extent[0] + extent[-1] + 1) // 2
    return float((profile[:half].sum() - profile[half:].sum()) / profile.sum())


def extent(image: Picture) -> float:
    """Share of the picture that the thing covers."""
    return float(thing(image).mean())


def centredness(image: Picture) -> float:
    """Share of the thing that lies in the middle fifth of the width."""
    mask = thing(image)
    return float(mask[:, SIDE // 2 - 13 : SIDE // 2 + 13].sum() / max(float(mask.sum()), 1.0))


def hues(image: Picture) -> float:
    """How many sixths of the colour wheel the middle shows."""
    red, green, blue = np.moveaxis(middle(image, 30), 2, 0)
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) % (2 * np.pi)
    vivid = saturation(middle(image, 30)) > 0.3
    share = np.histogram(angle[vivid], bins=6, range=(0, 2 * np.pi))[0] / vivid.size
    return float((share > 0.03).sum())


def snow_line(image: Picture) -> float:
    """How much brighter the lowest fifth is than the highest."""
    light = luminance(image)[:, :, 0]
    return float(light[-SIDE // 5 :].mean() - light[: SIDE // 5].mean())


def violet(image: Picture) -> float:
    """How violet all of it is: red and blue, but not green."""
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    return float((red + blue) / 2 - green)


def greenness(image: Picture) -> float:
    """How green the middle is."""
    red, green, blue = middle(image, 20).reshape(-1, 3).mean(axis=0)
    return float(green - max(red, blue))


MEASURES: tuple[Measure, ...] = (
    brightness, contrast, colourfulness, goldness, ground_brightness, ground_redness, ground_turquoise,
    ground_warming, whiteness, level_bands, blackness, grayness, solidity, top_heaviness, extent, centredness, hues,
    snow_line, violet, greenness,
)  # fmt: skip


def measure(name: str, image: Picture) -> float:
    """A measure by the name that the adapters' index uses; the picture is 128 × 128, 0 to 1."""
    return {known.__name__: known for known in MEASURES}[name](image)
