"""Selection of the apply mode: merge or bypass, whichever takes less time over the whole image, layer by layer.

Where the numbers alone leave it open, it is measured on this machine, once for each kind of layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from lib_adapters.patching.cost import Kind, LatentShape, bypass_seconds, cost_key, estimated_costs, merge_seconds
from lib_adapters.patching.patch import ParamPatches
from lib_adapters.patching.schedule_plan import ApplyMode, SchedulePlan
from lib_adapters.prompt.schedule import SamplingStep, count_changes

SWITCH_MARGIN = 0.95  # what is merged stays so where it is as good as even
OBVIOUS_RATIO = 4.0  # times the work: no processor is so much better at the one than at the other
ROUGHLY, WELL = 1, 3  # tries
TYPICAL_LATENT = {"sdxl": LatentShape(2, 128, 128), "sdxl-refiner": LatentShape(2, 128, 128)}
INITIAL_STEPS = LatentShape(2, 64, 64)  # a picture of usual size under guidance
UNMEASURED = (0, 0.0)
Timings = dict[Kind, tuple[int, float]]  # tries, seconds


class ModeSelector:
    """Remembers what was measured, and for which size of picture."""

    def __init__(self) -> None:
        self._merge_timings: Timings = {}
        self._bypass_timings: Timings = {}
        self._estimates: dict[Kind, tuple[int, int]] = {}
        self._last_latent: LatentShape | None = None

    def initial_modes(self, plan: SchedulePlan, step: SamplingStep, family: str) -> None:
        """As for the last picture, or for the usual one: what is merged in vain costs more than most pictures."""
        run = self._last_latent or TYPICAL_LATENT.get(family, INITIAL_STEPS)
        for key, target in plan.undecided.items():
            plan.modes[key] = self._guess(target, step, run, family)

    def select(self, plan: SchedulePlan, step: SamplingStep, latent: LatentShape, family: str) -> bool:
        """Did any parameter change its way?"""
        self._last_latent = latent
        before = dict(plan.modes)
        for key, target in plan.undecided.items():
            plan.modes[key] = self._measured(target, step, latent, family)
        for target in (one for key, one in plan.bypassed.items() if key not in plan.undecided):  # only to tell
            kind = cost_key(target, latent, family)
            _at_least(ROUGHLY, self._bypass_timings, kind, partial(bypass_seconds, target, ROUGHLY, latent, family))
        return plan.modes != before

    def _guess(self, target: ParamPatches, step: SamplingStep, run: LatentShape, family: str) -> ApplyMode:
        """Without measuring anything now."""
        kind = cost_key(target, run, family)
        runs, renewals = _times(target, step)
        (merged, merge_s), (tried, beside_s) = (
            self._merge_timings.get(kind, UNMEASURED),
            self._bypass_timings.get(kind, UNMEASURED),
        )
        if min(merged, tried) == WELL:
            return _better(merge_s * renewals, beside_s * runs)
        merge, beside = self._work(kind, target, run, family)
        return _better(merge * renewals, beside * runs)

    def _measured(self, target: ParamPatches, step: SamplingStep, run: LatentShape, family: str) -> ApplyMode:
        """Of two that are far apart the better one is measured roughly, to be told."""
        kind = cost_key(target, run, family)
        runs, renewals = _times(target, step)
        merge, beside = self._work(kind, target, run, family)
        clear = OBVIOUS_RATIO if _on_cpu(target) else math.inf  # a GPU has no time for anything small
        merges, besides = merge * renewals < beside * runs * clear, beside * runs < merge * renewals * clear
        tries = WELL if merges and besides else ROUGHLY
        if besides:
            _at_least(tries, self._bypass_timings, kind, lambda: bypass_seconds(target, tries, run, family))
        if merges:
            _at_least(tries, self._merge_timings, kind, lambda: merge_seconds(target, tries))
        return self._guess(target, step, run, family)

    def _work(self, kind: Kind, target: ParamPatches, run: LatentShape, family: str) -> tuple[int, int]:
        if kind not in self._estimates:
            self._estimates[kind] = estimated_costs(target, run, family)
        return self._estimates[kind]

    def timings(self, plan: SchedulePlan, family: str) -> tuple[float, float]:
        """Of one change of everything that is merged, and of one run of everything beside."""
        if self._last_latent is None:
            return 0.0, 0.0
        merge = beside = 0.0
        for key, target in plan.undecided.items():
            kind = cost_key(target, self._last_latent, family)
            merge += self._merge_timings.get(kind, UNMEASURED)[1] * (plan.modes[key] == "merged")
        for target in plan.bypassed.values():
            beside += self._bypass_timings.get(cost_key(target, self._last_latent, family), UNMEASURED)[1]
        return merge, beside


def _better(merge: float, beside: float) -> ApplyMode:
    return "beside" if beside < merge * SWITCH_MARGIN else "merged"


def _at_least(tries: int, known: Timings, kind: Kind, measure: Callable[[], float]) -> None:
    if known.get(kind, UNMEASURED)[0] < tries:
        known[kind] = tries, measure()


def _on_cpu(target: ParamPatches) -> bool:
    parameter = target.ref.parameter()
    return parameter is not None and parameter.device.type == "cpu"


def _times(target: ParamPatches, step: SamplingStep) -> tuple[int, int]:
    """How often the UNet runs, and how often the strength changes, in the whole picture."""
    requests = {id(patch.scheduled): patch.scheduled.request for patch in target.patches if patch.scheduled is not None}
    often = max(count_changes(one.unet, one.window, step.total_steps) for one in requests.values())
    return max(step.model_calls, step.total_steps), often
