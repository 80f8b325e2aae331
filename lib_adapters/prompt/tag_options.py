"""The options of one tag in one pass: strengths, block weights and schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from lib_adapters.errors import BadTag
from lib_adapters.prompt.block_weights import BlockWeightSpec
from lib_adapters.prompt.schedule import (
    Curve,
    Strength,
    Window,
    initial_value,
    looks_like_curve,
    parse_curve,
    parse_number,
    parse_strength,
    parse_window,
)

Mode = Literal["auto", "merged", "live"]
MODE_CHOICES: tuple[Mode, ...] = ("auto", "merged", "live")
TIMESTEP = "timestep"  # dyn: as many ranks as T-LoRA trains at this noise
Ranks = int | Curve | Literal["timestep"]
PASS_KEYS = ("te", "unet", "dyn", "lbw", "lbwe", "x", "start", "stop", "step")


@dataclass(frozen=True)
class TagOptions:
    """What a tag asks for in one pass; the defaults are those of a tag without keys."""

    te: float = 1.0
    unet: Strength = 1.0
    dyn: Ranks | None = None
    spec: BlockWeightSpec = field(default_factory=BlockWeightSpec)
    window: Window | None = None
    notes: tuple[str, ...] = ()  # what was asked for and cannot be, one sentence each

    @property
    def is_dynamic(self) -> bool:
        """Does anything change while the picture is drawn?"""
        return self.window is not None or isinstance(self.unet, Curve) or isinstance(self.dyn, Curve | str)


def constant_strength(control: TagOptions, what: str) -> tuple[float, str]:
    """For what has one strength in all steps: that strength, and a sentence where another was asked for."""
    value = initial_value(control.unet)
    if not control.is_dynamic and not control.spec and control.dyn is None:
        return value, ""
    return value, f"{what} has one strength for all layers and steps; {value:g} is used"


def parse_options(values: Mapping[str, str], base: TagOptions | None = None) -> TagOptions:
    """The keys of one pass; what is missing is as in `base`. BadTag names the token.

    The text encoder works before sampling, so of a curve it takes the first value, as loractl does.
    """
    usual = base or TagOptions()
    notes: list[str] = []
    te = usual.te
    if "te" in values:
        strength = parse_strength(values["te"])
        te = initial_value(strength)
        if isinstance(strength, Curve) and len(set(strength.values)) > 1:
            notes.append(f"the text encoder works before sampling: of {values['te']} it takes the first value, {te:g}")
    unet = parse_strength(values["unet"]) if "unet" in values else usual.unet
    if "te" in values and "unet" not in values and base is None:
        unet = parse_strength(values["te"])
    dyn = _ranks(values["dyn"]) if "dyn" in values else usual.dyn
    return TagOptions(te, unet, dyn, _wish(values, usual.spec), _window(values, usual.window), tuple(notes))


def _window(values: Mapping[str, str], usual: Window | None) -> Window | None:
    if values.keys().isdisjoint(("start", "stop", "step")):
        return usual
    window = parse_window(values.get("start"), values.get("stop"), values.get("step"))
    if window is None or usual is None or "step" in values:
        return window
    return Window(window.start or usual.start, window.stop or usual.stop)


def _wish(values: Mapping[str, str], usual: BlockWeightSpec) -> BlockWeightSpec:
    spec = usual
    if "lbw" in values:
        spec = replace(spec, blocks=values["lbw"])
    if "lbwe" in values:
        spec = replace(spec, elements=values["lbwe"])
    return replace(spec, x=parse_number(values["x"])) if "x" in values else spec


def _ranks(token: str) -> Ranks:
    if token == TIMESTEP:
        return "timestep"
    if looks_like_curve(token):
        return parse_curve(token)
    if not re.fullmatch(r"\+?[0-9]{1,9}", token) or int(token) == 0:
        raise BadTag(f"{token!r} is not a whole number above 0")
    return int(token)


def parse_mode(token: str) -> Mode:
    """`auto`, `merged` or `live`, in any case; BadTag names the token."""
    for mode in MODE_CHOICES:
        if token.lower() == mode:
            return mode
    raise BadTag(f"{token!r} is no mode: it is auto, merged or live")
