"""Splits a plan into static and scheduled parameters and decides how each scheduled one is applied.

A parameter whose strengths are for all rows is merged again at each change, or its moving deltas run beside the layer;
one whose rows differ runs live: beside where that is possible, else in groups of rows with a W' each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.ops.torch_modes import float32_math
from lib_adapters.patching.bypass import bypass_deltas
from lib_adapters.patching.layers import ParamRef, WeightView
from lib_adapters.patching.parameters import current_tensor
from lib_adapters.patching.patch import Key, ParamPatches, PatchesByParam, ScheduledStrength
from lib_adapters.prompt.schedule import SamplingStep

ApplyMode = Literal["merged", "beside", "live"]  # merged anew; W' merged without it and it beside; the whole layer live
NO_ROW = (-1,)  # no row, no text


class SchedulePlan:
    """One plan on one model; `dials` are what hosts turn."""

    def __init__(
        self, targets: PatchesByParam, strengths: Iterable[ScheduledStrength], bypass_all: bool = False
    ) -> None:
        """`live`: nothing may be merged."""
        self.strengths = list(strengths)
        self._static = {} if bypass_all else {key: target for key, target in targets.items() if not target.is_dynamic}
        self.dynamic = {key: target for key, target in targets.items() if bypass_all or target.is_dynamic}
        self.bypassable = {key for key, target in self.dynamic.items() if not bypass_all and _can_run_beside(target)}
        self.modes: dict[Key, ApplyMode] = {
            key: self._initial_mode(key, target, bypass_all) for key, target in self.dynamic.items()
        }
        self.step = SamplingStep(0, 1)
        self.text_row: int | None = None

    def _initial_mode(self, key: Key, target: ParamPatches, live: bool) -> ApplyMode:
        """What must be; else merged, until somebody chooses what is quicker."""
        requested_modes = {patch.scheduled.request.mode for patch in target.patches if patch.scheduled is not None}
        if not live and not _has_rows(target) and "live" not in requested_modes:
            return "merged"
        return "beside" if key in self.bypassable else "live"

    @property
    def is_dynamic(self) -> bool:
        """True if any strength depends on the sampling step, the batch row or the text row."""
        return any(scheduled.is_dynamic for scheduled in self.strengths)

    @property
    def undecided(self) -> dict[Key, ParamPatches]:
        """Where it may be measured which way is quicker."""
        return {key: target for key, target in self.dynamic.items() if key in self.bypassable and _is_open(target)}

    @property
    def bypassed(self) -> dict[Key, ParamPatches]:
        """The scheduled parameters that are applied as a bypass."""
        return {key: target for key, target in self._changing.items() if self.modes[key] == "beside"}

    @property
    def _changing(self) -> dict[Key, ParamPatches]:
        return {key: target for key, target in self.dynamic.items() if _changes(target)}

    def precompute(self, base_of: Callable[[ParamRef], Tensor | None]) -> None:
        """What depends on the weights alone is computed once, not at each change."""
        for target in self.dynamic.values():
            for n, patch in enumerate(target.patches):
                if patch.scheduled is not None and type(patch.algorithm).precompute is not Algorithm.precompute:
                    base = base_of(target.ref)
                    if base is not None:
                        algorithm = patch.algorithm.to(base.device).precompute(patch.view.apply(base))
                        target.patches[n] = replace(patch, algorithm=algorithm)

    def set_step(self, step: SamplingStep) -> bool:
        """To this step; did any strength change?"""
        before = [scheduled.state for scheduled in self.strengths]
        self.step = step
        for scheduled in self.strengths:
            scheduled.set_step(step)
        return before != [scheduled.state for scheduled in self.strengths]

    def set_rows(self, rows: Sequence[int] | None) -> None:
        """The rows of the UNet's coming run; None where the host tells nothing."""
        for scheduled in self.strengths:
            if scheduled.component == "unet":
                scheduled.set_rows(rows)

    def set_text_row(self, row: int | None) -> bool:
        """Whose text is encoded next: adapters with a scope act on no other."""
        before = [scheduled.state for scheduled in self.strengths]
        self.text_row = row
        for scheduled in self.strengths:
            if scheduled.component != "unet":
                scheduled.set_rows(NO_ROW if row is None else (row,))
        return before != [scheduled.state for scheduled in self.strengths]

    def merged(self) -> PatchesByParam:
        """What is in the weights at this moment."""
        found = dict(self._static)
        for key, way in self.modes.items():
            target = self.dynamic[key]
            now = target.resolve() if way == "merged" else target.split_static_dynamic()[0] if way == "beside" else None
            if now is not None:
                found[key] = now
        return found

    def live(self) -> PatchesByParam:
        """What runs live, with its dials."""
        found: PatchesByParam = {}
        for key, way in self.modes.items():
            target = self.dynamic[key]
            apart = target.split_static_dynamic()[1] if way == "beside" else target if way == "live" else None
            if apart is not None:
                found[key] = apart
        return found

    def modes_of(self, file: str) -> str:
        """How what a file asks for is followed, in words."""
        found: set[str] = set()
        for key, target in self.dynamic.items():
            for patch in (one for one in target.patches if one.key[0] == file):
                way = self.modes[key]
                in_weight = way == "beside" and patch.scheduled is None  # merged once, and another one beside it
                found.add("merged" if in_weight else "merged at each change" if way == "merged" else "live")
        return " and ".join(sorted(found)) or "merged"

    def counts(self) -> Mapping[ApplyMode, int]:
        """Moving parameters by the way they go."""
        ways = [self.modes[key] for key in self._changing]
        return {way: ways.count(way) for way in ("merged", "beside", "live") if way in ways}


def _changes(target: ParamPatches) -> bool:
    """True if any patch is scheduled; False if the patches are live only because `mode=live` is set."""
    return any(patch.scheduled is not None and patch.scheduled.is_dynamic for patch in target.patches)


def _has_rows(target: ParamPatches) -> bool:
    scheduled_strengths = [patch.scheduled for patch in target.patches if patch.scheduled is not None]
    return any(
        scheduled.request.rows is not None and scheduled.component == "unet" for scheduled in scheduled_strengths
    )


def _is_open(target: ParamPatches) -> bool:
    """In the UNet, all rows at one strength, and no user has said how it is to be followed."""
    scheduled_strengths = [patch.scheduled for patch in target.patches if patch.scheduled is not None]
    return all(
        scheduled.component == "unet" and scheduled.request.mode == "auto" for scheduled in scheduled_strengths
    ) and not _has_rows(target)


def _can_run_beside(target: ParamPatches) -> bool:
    moving = target.split_static_dynamic()[1]
    module = target.ref.module()
    if moving is None or module is None or target.ref.reader() is not module:
        return False
    plain = all(
        p.view == WeightView() and not p.is_bias and p.scheduled and p.scheduled.request.dyn is None
        for p in moving.patches
    )
    return plain and _has_form(module, moving)


def _has_form(module: nn.Module, moving: ParamPatches) -> bool:
    base = current_tensor(module, moving.ref.name)
    with float32_math():
        return base is not None and bypass_deltas(module, [p.algorithm for p in moving.patches], base) is not None
