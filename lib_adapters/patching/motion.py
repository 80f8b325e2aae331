"""What of a plan changes while a picture is drawn, and how each parameter follows.

A parameter whose strengths are for all rows is merged again at each change, or its moving deltas run beside the layer;
one whose rows differ runs live: beside where that is possible, else in groups of rows with a W' each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.ops.modes import exact
from lib_adapters.patching.beside import beside
from lib_adapters.patching.dial import Dial
from lib_adapters.patching.patch import Key, Target, Targets
from lib_adapters.patching.pointer import held
from lib_adapters.patching.targets import Slot, View
from lib_adapters.prompt.schedule import Moment

Way = Literal["merged", "beside", "live"]  # merged anew; W' merged without it and it beside; the whole layer live
NOBODY = (-1,)  # no row, no text


class Motion:
    """One plan on one model; `dials` are what hosts turn."""

    def __init__(self, targets: Targets, dials: Iterable[Dial], live: bool = False) -> None:
        """`live`: nothing may be merged."""
        self.dials = list(dials)
        self._still = {} if live else {key: target for key, target in targets.items() if not target.moves}
        self.moving = {key: target for key, target in targets.items() if live or target.moves}
        self.able = {key for key, target in self.moving.items() if not live and _can_run_beside(target)}
        self.ways: dict[Key, Way] = {key: self._first_way(key, target, live) for key, target in self.moving.items()}
        self.moment = Moment(0, 1)
        self.voice: int | None = None

    def _first_way(self, key: Key, target: Target, live: bool) -> Way:
        """What must be; else merged, until somebody chooses what is quicker."""
        asked = {patch.dial.request.mode for patch in target.patches if patch.dial is not None}
        if not live and not _has_rows(target) and "live" not in asked:
            return "merged"
        return "beside" if key in self.able else "live"

    @property
    def moves(self) -> bool:
        """True if any strength depends on the sampling step, the batch row or the text row."""
        return any(dial.moves for dial in self.dials)

    @property
    def open(self) -> dict[Key, Target]:
        """Where it may be measured which way is quicker."""
        return {key: target for key, target in self.moving.items() if key in self.able and _is_open(target)}

    @property
    def beside(self) -> dict[Key, Target]:
        """The scheduled parameters that are applied as a bypass."""
        return {key: target for key, target in self._changing.items() if self.ways[key] == "beside"}

    @property
    def _changing(self) -> dict[Key, Target]:
        return {key: target for key, target in self.moving.items() if _changes(target)}

    def settle(self, base_of: Callable[[Slot], Tensor | None]) -> None:
        """What depends on the weights alone is computed once, not at each change."""
        for target in self.moving.values():
            for n, patch in enumerate(target.patches):
                if patch.dial is not None and type(patch.algorithm).settled is not Algorithm.settled:
                    base = base_of(target.slot)
                    if base is not None:
                        algorithm = patch.algorithm.on(base.device).settled(patch.view.of(base))
                        target.patches[n] = replace(patch, algorithm=algorithm)

    def turn(self, moment: Moment) -> bool:
        """To this step; did any strength change?"""
        before = [dial.setting for dial in self.dials]
        self.moment = moment
        for dial in self.dials:
            dial.turn(moment)
        return before != [dial.setting for dial in self.dials]

    def choose(self, rows: Sequence[int] | None) -> None:
        """The rows of the UNet's coming run; None where the host tells nothing."""
        for dial in self.dials:
            if dial.part == "unet":
                dial.choose(rows)

    def speak(self, voice: int | None) -> bool:
        """Whose text is encoded next: adapters with a scope act on no other."""
        before = [dial.setting for dial in self.dials]
        self.voice = voice
        for dial in self.dials:
            if dial.part != "unet":
                dial.choose(NOBODY if voice is None else (voice,))
        return before != [dial.setting for dial in self.dials]

    def merged(self) -> Targets:
        """What is in the weights at this moment."""
        found = dict(self._still)
        for key, way in self.ways.items():
            target = self.moving[key]
            now = target.now() if way == "merged" else target.parted()[0] if way == "beside" else None
            if now is not None:
                found[key] = now
        return found

    def live(self) -> Targets:
        """What runs live, with its dials."""
        found: Targets = {}
        for key, way in self.ways.items():
            target = self.moving[key]
            apart = target.parted()[1] if way == "beside" else target if way == "live" else None
            if apart is not None:
                found[key] = apart
        return found

    def ways_of(self, file: str) -> str:
        """How what a file asks for is followed, in words."""
        found: set[str] = set()
        for key, target in self.moving.items():
            for patch in (one for one in target.patches if one.key[0] == file):
                way = self.ways[key]
                in_weight = way == "beside" and patch.dial is None  # merged once, and another one beside it
                found.add("merged" if in_weight else "merged at each change" if way == "merged" else "live")
        return " and ".join(sorted(found)) or "merged"

    def counts(self) -> Mapping[Way, int]:
        """Moving parameters by the way they go."""
        ways = [self.ways[key] for key in self._changing]
        return {way: ways.count(way) for way in ("merged", "beside", "live") if way in ways}


def _changes(target: Target) -> bool:
    """True if any patch is scheduled; False if the patches are live only because `mode=live` is set."""
    return any(patch.dial is not None and patch.dial.moves for patch in target.patches)


def _has_rows(target: Target) -> bool:
    dials = [patch.dial for patch in target.patches if patch.dial is not None]
    return any(dial.request.scope is not None and dial.part == "unet" for dial in dials)


def _is_open(target: Target) -> bool:
    """In the UNet, all rows at one strength, and no user has said how it is to be followed."""
    dials = [patch.dial for patch in target.patches if patch.dial is not None]
    return all(dial.part == "unet" and dial.request.mode == "auto" for dial in dials) and not _has_rows(target)


def _can_run_beside(target: Target) -> bool:
    moving = target.parted()[1]
    module = target.slot.module()
    if moving is None or module is None or target.slot.caller() is not module:
        return False
    plain = all(p.view == View() and not p.of_bias and p.dial and p.dial.request.dyn is None for p in moving.patches)
    return plain and _has_form(module, moving)


def _has_form(module: nn.Module, moving: Target) -> bool:
    base = held(module, moving.slot.name)
    with exact():
        return base is not None and beside(module, [p.algorithm for p in moving.patches], base) is not None
