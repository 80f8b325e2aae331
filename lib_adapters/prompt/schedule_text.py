"""Curves and windows as a tag spells them: `0@0,1@50%`, `start=5`, `step=2-8`, `stop=4.2sigma`."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from lib_adapters.errors import BadTag
from lib_adapters.prompt.schedule import Curve, Position, Strength, Unit, Window

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_POSITION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%|sigma|σ)?")
MOST_POINTS = 64


def is_curve(token: str) -> bool:
    """Is this meant as a curve? Whether it can be read is another question."""
    return "@" in token or "~" in token


def read_strength(token: str) -> Strength:
    """A number or a curve; BadTag names the token."""
    return read_curve(token) if is_curve(token) else read_number(token)


def read_number(token: str) -> float:
    """A finite number; BadTag names the token."""
    value = float(token) if NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise BadTag(f"{token!r} is not a finite number")
    return value


def read_curve(token: str) -> Curve:
    """`value@position,...`; also `;` and `~`, as loractl has them. Bare positions up to 1 are shares, beyond steps.

    BadTag names the token that cannot be read.
    """
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
    value, _, place = (part.strip() for part in re.sub("~", "@", piece).partition("@"))
    match = _POSITION.fullmatch(place)
    if match is None:
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
    """For windows: a whole number is a step, one with a decimal point up to 1 a share. BadTag names the token."""
    match = _POSITION.fullmatch(token)
    if match is None:
        raise BadTag(f"{token!r} is no position: a step (5), a share (0.5, 50%) or noise (4.2sigma)")
    value, unit = _measured(match)
    if not unit:
        unit = "share" if "." in token and value <= 1 else "step"
    return Position(value, unit)  # type: ignore[arg-type]


def read_window(start: str | None, stop: str | None, step: str | None) -> Window | None:
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
    first, last = (None if end is None else read_position(end) for end in (start, stop))
    return Window(first, last)


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
