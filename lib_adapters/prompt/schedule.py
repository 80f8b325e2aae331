"""Strengths that change while a picture is drawn: `0@0,1@50%` is a curve, `start=`, `stop=` and `step=` a window.

A position is counted in steps that are done (`5`), in shares of all steps (`0.5`, `50%`) or in noise (`4.2sigma`).
Grammars: cheald/sd-webui-loractl (curves), hako-mikan/sd-webui-lora-block-weight (windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Unit = Literal["share", "step", "sigma"]
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
        """Those of its points, in their order."""
        return tuple(value for _, value in self.points)


Strength = float | Curve


@dataclass(frozen=True)
class Position:
    """A place in time: steps that are done, a share of all steps (0 to 1), or a sigma."""

    value: float
    unit: Unit

    def passed(self, moment: Moment) -> bool:
        """Is it reached or behind? Never for noise that is not known."""
        here = _place(self.unit, moment, moment.done)
        if here is None:
            return False
        return here <= self.value if self.unit == "sigma" else here >= self.value


@dataclass(frozen=True, order=True)
class Turn:
    """Alternation `[a|b|...]`: active in one of every `count` steps, at index `place` (0 is the first)."""

    place: int
    count: int

    def holds(self, moment: Moment) -> bool:
        """True if it is active in this step."""
        return moment.step % self.count == self.place


@dataclass(frozen=True)
class Window:
    """The steps from `start` until `stop` in which all `turns` are active and that `within` contains too."""

    start: Position | None = None
    stop: Position | None = None
    turns: tuple[Turn, ...] = ()
    within: Window | None = None

    def holds(self, moment: Moment) -> bool:
        """Is this step inside? A step at `start` is, one at `stop` is not."""
        begun = self.start is None or self.start.passed(moment)
        here = begun and not (self.stop is not None and self.stop.passed(moment))
        own = here and all(turn.holds(moment) for turn in self.turns)
        return own and (self.within is None or self.within.holds(moment))


def strength_at(strength: Strength, window: Window | None, moment: Moment) -> float:
    """What holds in this step; 0 outside the window."""
    if window is not None and not window.holds(moment):
        return 0.0
    return strength.at(moment) if isinstance(strength, Curve) else strength


def first_of(strength: Strength) -> float:
    """What holds before the first step."""
    return strength.points[0][1] if isinstance(strength, Curve) else strength


def changes(strength: Strength, window: Window | None, steps: int) -> int:
    """How often the value changes between neighbouring steps; noise is taken to fall with each step."""
    if isinstance(strength, float | int) and window is None:
        return 0
    if uses_noise(strength, window):
        return max(0, steps - 1)
    values = [strength_at(strength, window, Moment(step, steps)) for step in range(steps)]
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


def _place(unit: Unit, moment: Moment, share: float) -> float | None:
    return {"share": share, "step": float(moment.step), "sigma": moment.sigma}[unit]
