"""Outlines of the things the embedded model can draw: polygons in a square from -1 to 1, y pointing down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """One polygon and its paint: "main" and "dark" follow the caption's colour, others name a fixed one."""

    paint: str
    points: tuple[Point, ...]


def disc(x: float, y: float, rx: float, ry: float) -> tuple[Point, ...]:
    """An ellipse fine enough that its corners vanish at 128 pixels."""
    angles = [2 * math.pi * k / 40 for k in range(40)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def box(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    """A rectangle by its edges."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def circle() -> tuple[Part, ...]:
    """A filled disc."""
    return (Part("main", disc(0, 0, 0.92, 0.92)),)


def square() -> tuple[Part, ...]:
    """As large as the disc, to the eye."""
    return (Part("main", box(-0.82, -0.82, 0.82, 0.82)),)


def triangle() -> tuple[Part, ...]:
    """It stands on its base."""
    return (Part("main", ((0, -0.95), (0.98, 0.8), (-0.98, 0.8))),)


def star() -> tuple[Part, ...]:
    """Five points, one of them up."""
    radii = [1.0 if k % 2 == 0 else 0.42 for k in range(10)]
    turn = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    return (Part("main", tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, turn, strict=True))),)


def heart() -> tuple[Part, ...]:
    """The usual parametric heart, its tip down."""
    points = []
    for k in range(48):
        t = 2 * math.pi * k / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -y / 16 - 0.1))
    return (Part("main", tuple(points)),)


def moon() -> tuple[Part, ...]:
    """A crescent: an outer arc and a shallower one back."""
    angles = [math.radians(60 + 240 * k / 30) for k in range(31)]
    outer = [(0.25 + 0.95 * math.cos(a), 0.95 * math.sin(a)) for a in angles]
    back = [math.pi * (1 - k / 30) for k in range(31)]
    inner = [(0.74 - 0.72 * math.sin(b), 0.82 * math.cos(b)) for b in back]
    return (Part("main", tuple(outer + inner)),)


def house() -> tuple[Part, ...]:
    """A wall, a darker roof, a door and a window."""
    return (
        Part("main", box(-0.7, -0.1, 0.7, 0.9)),
        Part("dark", ((0, -0.95), (0.98, -0.05), (-0.98, -0.05))),
        Part("brown", box(-0.5, 0.25, -0.08, 0.9)),
        Part("cream", box(0.12, 0.2, 0.52, 0.58)),
    )


def tree() -> tuple[Part, ...]:
    """Two tiers of crown on a brown trunk."""
    return (
        Part("brown", box(-0.17, 0.4, 0.17, 0.98)),
        Part("main", ((0, -0.98), (0.62, -0.1), (-0.62, -0.1))),
        Part("main", ((0, -0.5), (0.86, 0.52), (-0.86, 0.52))),
    )


def fish() -> tuple[Part, ...]:
    """It swims to the left."""
    return (
        Part("dark", ((0.35, 0), (1.0, -0.6), (1.0, 0.6))),
        Part("main", disc(-0.2, 0, 0.8, 0.58)),
        Part("cream", disc(-0.58, -0.14, 0.16, 0.16)),
        Part("ink", disc(-0.61, -0.14, 0.08, 0.08)),
    )


def flower() -> tuple[Part, ...]:
    """Six petals around a cream middle."""
    angles = [math.pi * k / 3 for k in range(6)]
    petals = [Part("main", disc(0.6 * math.cos(a), 0.6 * math.sin(a), 0.36, 0.36)) for a in angles]
    return (*petals, Part("main", disc(0, 0, 0.5, 0.5)), Part("cream", disc(0, 0, 0.28, 0.28)))


SHAPES: tuple[Callable[[], tuple[Part, ...]], ...] = (
    circle, square, triangle, star, heart, moon, house, tree, fish, flower,
)  # fmt: skip


def parts_of(name: str) -> tuple[Part, ...]:
    """The polygons of a shape by the word that captions use for it."""
    return {shape.__name__: shape for shape in SHAPES}[name]()
