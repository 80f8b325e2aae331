"""Schedules: `0@0,1@50%` is a curve; `start=`, `stop=` and `step=` are a window.

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
TIMESTEPS = 1000  # that every Stable Diffusion was trained with


@dataclass(frozen=True)
class SamplingStep:
    """One run of the denoiser: how many of how many steps are done, and the noise it looks at (None: not known)."""

    step: int
    total_steps: int
    sigma: float | None = None
    timestep: float | None = None  # the same noise as a model counts it: 999 the most, 0 the least
    model_calls: int = 0  # of the denoiser in the whole picture, where a sampler takes more than one for a step

    @property
    def progress(self) -> float:
        """0 in the first step, 1 in the last one: where a curve is."""
        return min(1.0, self.step / (self.total_steps - 1)) if self.total_steps > 1 else 0.0

    @property
    def denoised(self) -> float:
        """The share of the noise's scale that lies behind: 1 − t/T."""
        left = self.timestep / TIMESTEPS if self.timestep is not None else 1.0 - self.completed
        return min(1.0, max(0.0, 1.0 - left))

    @property
    def completed(self) -> float:
        """The share of all steps that lies behind: where a window is."""
        return self.step / self.total_steps if self.total_steps else 0.0


@dataclass(frozen=True)
class Curve:
    """A strength that runs straight from point to point and stays as it is before the first and behind the last."""

    unit: Unit
    points: tuple[tuple[float, float], ...]  # (position, value) in the order in which they are passed

    def value_at(self, step: SamplingStep) -> float:
        """The value in this step. A curve over noise that is not known has its first value."""
        here = _place(self.unit, step, step.progress)
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
        """Those of its points, in their order."""
        return tuple(value for _, value in self.points)


Strength = float | Curve


@dataclass(frozen=True)
class Position:
    """A place in time: steps that are done, a share of all steps (0 to 1), or a sigma."""

    value: float
    unit: Unit

    def is_reached(self, step: SamplingStep) -> bool:
        """Is it reached or behind? Never for noise that is not known."""
        here = _place(self.unit, step, step.completed)
        if here is None:
            return False
        return here <= self.value if self.unit == "sigma" else here >= self.value


@dataclass(frozen=True, order=True)
class EveryNth:
    """Alternation `[a|b|...]`: active in one of every `period` steps, at index `offset` (0 is the first)."""

    offset: int
    period: int

    def contains(self, step: SamplingStep) -> bool:
        """True if it is active in this step."""
        return step.step % self.period == self.offset


@dataclass(frozen=True)
class Window:
    """The steps from `start` until `stop` in which all `turns` are active and that `within` contains too."""

    start: Position | None = None
    stop: Position | None = None
    alternation: tuple[EveryNth, ...] = ()
    within: Window | None = None

    def contains(self, step: SamplingStep) -> bool:
        """Is this step inside? A step at `start` is, one at `stop` is not."""
        begun = self.start is None or self.start.is_reached(step)
        here = begun and not (self.stop is not None and self.stop.is_reached(step))
        own = here and all(turn.contains(step) for turn in self.alternation)
        return own and (self.within is None or self.within.contains(step))


def strength_at(strength: Strength, window: Window | None, step: SamplingStep) -> float:
    """What holds in this step; 0 outside the window."""
    if window is not None and not window.contains(step):
        return 0.0
    return strength.value_at(step) if isinstance(strength, Curve) else strength


def initial_value(strength: Strength) -> float:
    """What holds before the first step."""
    return strength.points[0][1] if isinstance(strength, Curve) else strength


def count_changes(strength: Strength, window: Window | None, steps: int) -> int:
    """How often the value changes between neighbouring steps; noise is taken to fall with each step."""
    if isinstance(strength, float | int) and window is None:
        return 0
    if uses_noise(strength, window):
        return max(0, steps - 1)
    values = [strength_at(strength, window, SamplingStep(step, steps)) for step in range(steps)]
    return sum(one != other for one, other in pairwise(values))


def uses_noise(strength: Strength, window: Window | None) -> bool:
    """Is any of it counted in sigma?"""
    if isinstance(strength, Curve) and strength.unit == "sigma":
        return True
    while window is not None:
        if any(end is not None and end.unit == "sigma" for end in (window.start, window.stop)):
            return True
        window = window.within
    return False


def _place(unit: Unit, step: SamplingStep, share: float) -> float | None:
    return {"share": share, "step": float(step.step), "sigma": step.sigma}[unit]


# Curves and windows as a tag spells them: `0@0,1@50%`, `start=5`, `step=2-8`, `stop=4.2sigma`.


NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_POSITION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%|sigma|σ)?")
MAX_POINTS = 64


def looks_like_curve(token: str) -> bool:
    """Is this meant as a curve? Whether it can be read is another question."""
    return "@" in token or "~" in token


def parse_strength(token: str) -> Strength:
    """A number or a curve; BadTag names the token."""
    return parse_curve(token) if looks_like_curve(token) else parse_number(token)


def parse_number(token: str) -> float:
    """A finite number; BadTag names the token."""
    value = float(token) if NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise BadTag(f"{token!r} is not a finite number")
    return value


def parse_curve(token: str) -> Curve:
    """`value@position,...`; also `;` and `~`, as loractl has them. Bare positions up to 1 are shares, beyond steps.

    BadTag names the token that cannot be read.
    """
    pieces = [piece.strip() for piece in re.split("[,;]", token)]
    if len(pieces) > MAX_POINTS:
        raise BadTag(f"{token[:40]!r} has more than {MAX_POINTS} points")
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
    value, _, place = (part.strip() for part in re.sub("~", "@", piece).partition("@"))
    match = _POSITION.fullmatch(place)
    if match is None:
        raise BadTag(f"{piece!r} in {token!r} is not value@position")
    position, unit = _measured(match)
    return position, parse_number(value), unit


def _measured(match: re.Match[str]) -> tuple[float, str]:
    percent = match[2] == "%"
    number = float(f"{match[1]}e-2" if percent else match[1])
    if not math.isfinite(number):
        raise BadTag(f"{match[0]!r} is not a finite position")
    return number, "share" if percent else "sigma" if match[2] else ""


def parse_position(token: str) -> Position:
    """For windows: a whole number is a step, one with a decimal point up to 1 a share. BadTag names the token."""
    match = _POSITION.fullmatch(token)
    if match is None:
        raise BadTag(f"{token!r} is no position: a step (5), a share (0.5, 50%) or noise (4.2sigma)")
    value, unit = _measured(match)
    if not unit:
        unit = "share" if "." in token and value <= 1 else "step"
    return Position(value, unit)  # type: ignore[arg-type]


def parse_window(start: str | None, stop: str | None, step: str | None) -> Window | None:
    """`step=a-b` is both at once, and one end may be missing; it wins over the others, as in lora-block-weight.

    None where there is no window at all. BadTag names the token that cannot be read.
    """
    if step is not None:
        ends = [end.strip() for end in step.split("-")]
        if len(ends) != 2 or not any(ends):
            raise BadTag(f"{step!r} is no range of steps such as 5-10")
        start, stop = ends[0] or None, ends[1] or None
    if start is None and stop is None:
        return None
    first, last = (None if end is None else parse_position(end) for end in (start, stop))
    return Window(first, last)


def format_strength(strength: Strength) -> str:
    """As a tag spells it; read again it is the same to the last bit."""
    if not isinstance(strength, Curve):
        return format_number(strength)
    return ",".join(
        f"{format_number(value)}@{_format_position(position, strength.unit)}" for position, value in strength.points
    )


def format_number(value: float) -> str:
    """The short spelling of a number where that is exact, else the long one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _format_position(position: float, unit: Unit) -> str:
    """Positions have no exponent."""
    digits = Decimal(repr(position)).scaleb(2 if unit == "share" else 0).normalize()
    return f"{digits:f}" + {"share": "%", "step": "", "sigma": "sigma"}[unit]
