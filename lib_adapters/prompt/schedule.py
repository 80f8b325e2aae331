"""Strengths that change while a picture is drawn: `0@0,1@50%` is a curve, `start=`, `stop=` and `step=` a window.

A position is counted in steps that are done (`5`), in shares of all steps (`0.5`, `50%`) or in noise (`4.2sigma`).
Grammars: cheald/sd-webui-loractl (curves), hako-mikan/sd-webui-lora-block-weight (windows).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Literal

from lib_adapters.errors import BadTag

Unit = Literal["share", "step", "sigma"]
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_POSITION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%|sigma|σ)?")
MOST_POINTS = 64
TIMESTEPS = 1000  # that every Stable Diffusion was trained with


@dataclass(frozen=True)
class Moment:
    """One run of the denoiser: how many of how many steps are done, and the noise it looks at (None: not known)."""

    step: int
    steps: int
    sigma: float | None = None
    timestep: float | None = None  # the same noise as a model counts it: 999 the most, 0 the least
    runs: int = 0  # of the denoiser in the whole picture, where a sampler takes more than one for a step

    @property
    def share(self) -> float:
        """0 in the first step, 1 in the last one: where a curve is."""
        return min(1.0, self.step / (self.steps - 1)) if self.steps > 1 else 0.0

    @property
    def clear(self) -> float:
        """The share of the noise's scale that lies behind: 1 − t/T."""
        left = self.timestep / TIMESTEPS if self.timestep is not None else 1.0 - self.done
        return min(1.0, max(0.0, 1.0 - left))

    @property
    def done(self) -> float:
        """The share of all steps that lies behind: where a window is."""
        return self.step / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class Curve:
    """A strength that runs straight from point to point and stays as it is before the first and behind the last."""

    unit: Unit
    points: tuple[tuple[float, float], ...]  # (position, value) in the order in which they are passed

    def at(self, moment: Moment) -> float:
        """The value in this step. A curve over noise that is not known has its first value."""
        here = _place(self.unit, moment, moment.share)
        if here is None:
            return self.points[0][1]
        way = -1.0 if self.unit == "sigma" else 1.0  # noise falls
        passed = [n for n, (position, _) in enumerate(self.points) if way * position <= way * here]
        if not passed:
            return self.points[0][1]
        left, right = self.points[passed[-1]], self.points[min(passed[-1] + 1, len(self.points) - 1)]
        if right[0] == left[0]:
            return right[1]
        return left[1] + (right[1] - left[1]) * (here - left[0]) / (right[0] - left[0])

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.points)


Strength = float | Curve


@dataclass(frozen=True)
class Position:
    value: float
    unit: Unit

    def passed(self, moment: Moment) -> bool:
        here = _place(self.unit, moment, moment.done)
        if here is None:
            return False
        return here <= self.value if self.unit == "sigma" else here >= self.value


@dataclass(frozen=True)
class Window:
    """From `start` on, until `stop`."""

    start: Position | None = None
    stop: Position | None = None

    def holds(self, moment: Moment) -> bool:
        begun = self.start is None or self.start.passed(moment)
        return begun and not (self.stop is not None and self.stop.passed(moment))


def strength_at(strength: Strength, window: Window | None, moment: Moment) -> float:
    if window is not None and not window.holds(moment):
        return 0.0
    return strength.at(moment) if isinstance(strength, Curve) else strength


def first_of(strength: Strength) -> float:
    """What holds before the first step."""
    return strength.points[0][1] if isinstance(strength, Curve) else strength


def is_curve(token: str) -> bool:
    """Is this meant as a curve? Whether it can be read is another question."""
    return "@" in token or "~" in token


def read_strength(token: str) -> Strength:
    """A number or a curve; BadTag names the token."""
    return read_curve(token) if is_curve(token) else read_number(token)


def read_number(token: str) -> float:
    value = float(token) if NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise BadTag(f"{token!r} is not a finite number")
    return value


def read_curve(token: str) -> Curve:
    """`value@position,...`; also `;` and `~`, as loractl has them. Bare positions up to 1 are shares, beyond steps."""
    pieces = [piece.strip() for piece in re.split("[,;]", token)]
    if len(pieces) > MOST_POINTS:
        raise BadTag(f"{token[:40]!r} has more than {MOST_POINTS} points")
    found = [_point(piece, token) for piece in pieces]
    bare = [position for position, _, unit in found if not unit]
    units = {unit for _, _, unit in found if unit} or {"share" if max(bare) <= 1 else "step"}
    if len(units) > 1 or (units == {"share"} and max(bare, default=0) > 1):
        raise BadTag(f"{token!r} counts its points in different units")
    (unit,) = units
    points = sorted(((p, v) for p, v, _ in found), key=lambda point: -point[0] if unit == "sigma" else point[0])
    return Curve(unit, tuple(points))  # type: ignore[arg-type]  # one of the three


def _point(piece: str, token: str) -> tuple[float, float, str]:
    """(position, value, unit or "" for a bare number)"""
    value, at, place = (part.strip() for part in re.sub("~", "@", piece).partition("@"))
    match = _POSITION.fullmatch(place)
    if not at or match is None:
        raise BadTag(f"{piece!r} in {token!r} is not value@position")
    position, unit = _measured(match)
    return position, read_number(value), unit


def _measured(match: re.Match[str]) -> tuple[float, str]:
    percent = match[2] == "%"
    number = float(f"{match[1]}e-2" if percent else match[1])
    if not math.isfinite(number):
        raise BadTag(f"{match[0]!r} is not a finite position")
    return number, "share" if percent else "sigma" if match[2] else ""


def read_position(token: str) -> Position:
    """For windows: a whole number is a step, one with a decimal point up to 1 a share."""
    match = _POSITION.fullmatch(token)
    if match is None:
        raise BadTag(f"{token!r} is no position: a step (5), a share (0.5, 50%) or noise (4.2sigma)")
    value, unit = _measured(match)
    if not unit:
        unit = "share" if "." in token and value <= 1 else "step"
    return Position(value, unit)  # type: ignore[arg-type]


def read_window(start: str | None, stop: str | None, step: str | None) -> Window | None:
    """`step=a-b` is both at once, and one end may be missing; it wins over the others, as in lora-block-weight."""
    if step is not None:
        ends = [end.strip() for end in step.split("-")]
        if len(ends) != 2 or not any(ends):
            raise BadTag(f"{step!r} is no range of steps such as 5-10")
        start, stop = ends[0] or None, ends[1] or None
    if start is None and stop is None:
        return None
    return Window(*(None if end is None else read_position(end) for end in (start, stop)))


def changes(strength: Strength, window: Window | None, steps: int) -> int:
    """How often the value changes between neighbouring steps; noise is taken to fall with each step."""
    if isinstance(strength, float | int) and window is None:
        return 0
    if uses_noise(strength, window):
        return max(0, steps - 1)
    values = [strength_at(strength, window, Moment(step, steps)) for step in range(steps)]
    return sum(one != other for one, other in pairwise(values))


def uses_noise(strength: Strength, window: Window | None) -> bool:
    ends = () if window is None else (window.start, window.stop)
    return (isinstance(strength, Curve) and strength.unit == "sigma") or any(e and e.unit == "sigma" for e in ends)


def _place(unit: Unit, moment: Moment, share: float) -> float | None:
    return {"share": share, "step": float(moment.step), "sigma": moment.sigma}[unit]


def written(strength: Strength) -> str:
    """As a tag spells it; read again it is the same to the last bit."""
    if not isinstance(strength, Curve):
        return plain(strength)
    return ",".join(f"{plain(value)}@{_placed(position, strength.unit)}" for position, value in strength.points)


def plain(value: float) -> str:
    """The short spelling of a number where that is exact, else the long one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _placed(position: float, unit: Unit) -> str:
    """Positions have no exponent."""
    digits = Decimal(repr(position)).scaleb(2 if unit == "share" else 0).normalize()
    return f"{digits:f}" + {"share": "%", "step": "", "sigma": "sigma"}[unit]
