"""What one tag asks for in one pass over a picture: how strongly, where in the model, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from lib_adapters.errors import BadTag
from lib_adapters.prompt.blocks import Wish
from lib_adapters.prompt.schedule import Curve, Strength, Window, first_of
from lib_adapters.prompt.schedule_text import is_curve, read_curve, read_number, read_strength, read_window

Mode = Literal["auto", "merged", "live"]
MODES: tuple[Mode, ...] = ("auto", "merged", "live")
TIMESTEP = "timestep"  # dyn: as many ranks as T-LoRA trains at this noise
Ranks = int | Curve | Literal["timestep"]
PASS_KEYS = ("te", "unet", "dyn", "lbw", "lbwe", "x", "start", "stop", "step")


@dataclass(frozen=True)
class Control:
    """What a tag asks for in one pass; the defaults are those of a tag without keys."""

    te: float = 1.0
    unet: Strength = 1.0
    dyn: Ranks | None = None
    wish: Wish = field(default_factory=Wish)
    window: Window | None = None
    notes: tuple[str, ...] = ()  # what was asked for and cannot be, one sentence each

    @property
    def moves(self) -> bool:
        """Does anything change while the picture is drawn?"""
        return self.window is not None or isinstance(self.unet, Curve) or isinstance(self.dyn, Curve | str)


def steady(control: Control, what: str) -> tuple[float, str]:
    """For what has one strength in all steps: that strength, and a sentence where another was asked for."""
    value = first_of(control.unet)
    if not control.moves and not control.wish and control.dyn is None:
        return value, ""
    return value, f"{what} has one strength for all layers and steps; {value:g} is used"


def read_control(values: Mapping[str, str], base: Control | None = None) -> Control:
    """The keys of one pass; what is missing is as in `base`. BadTag names the token.

    The text encoder works before sampling, so of a curve it takes the first value, as loractl does.
    """
    usual = base or Control()
    notes: list[str] = []
    te = usual.te
    if "te" in values:
        strength = read_strength(values["te"])
        te = first_of(strength)
        if isinstance(strength, Curve) and len(set(strength.values)) > 1:
            notes.append(f"the text encoder works before sampling: of {values['te']} it takes the first value, {te:g}")
    unet = read_strength(values["unet"]) if "unet" in values else usual.unet
    if "te" in values and "unet" not in values and base is None:
        unet = read_strength(values["te"])
    dyn = _ranks(values["dyn"]) if "dyn" in values else usual.dyn
    return Control(te, unet, dyn, _wish(values, usual.wish), _window(values, usual.window), tuple(notes))


def _window(values: Mapping[str, str], usual: Window | None) -> Window | None:
    if values.keys().isdisjoint(("start", "stop", "step")):
        return usual
    window = read_window(values.get("start"), values.get("stop"), values.get("step"))
    if window is None or usual is None or "step" in values:
        return window
    return Window(window.start or usual.start, window.stop or usual.stop)


def _wish(values: Mapping[str, str], usual: Wish) -> Wish:
    wish = usual
    if "lbw" in values:
        wish = replace(wish, blocks=values["lbw"])
    if "lbwe" in values:
        wish = replace(wish, elements=values["lbwe"])
    return replace(wish, x=read_number(values["x"])) if "x" in values else wish


def _ranks(token: str) -> Ranks:
    if token == TIMESTEP:
        return "timestep"
    if is_curve(token):
        return read_curve(token)
    if not re.fullmatch(r"\+?[0-9]{1,9}", token) or int(token) == 0:
        raise BadTag(f"{token!r} is not a whole number above 0")
    return int(token)


def read_mode(token: str) -> Mode:
    """`auto`, `merged` or `live`, in any case; BadTag names the token."""
    for mode in MODES:
        if token.lower() == mode:
            return mode
    raise BadTag(f"{token!r} is no mode: it is auto, merged or live")
