"""Merge again at each change, or run beside the layer? Whichever takes less time in the whole picture, layer by layer.

Where the numbers alone leave it open, it is measured on this machine, once for each kind of layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from lib_adapters.patching.cost import Kind, Run, beside_seconds, expected, kind_of, merge_seconds
from lib_adapters.patching.motion import Motion, Way
from lib_adapters.patching.patch import Target
from lib_adapters.prompt.schedule import Moment, changes

MARGIN = 0.95  # what is merged stays so where it is as good as even
CLEAR = 4.0  # times the work: no processor is so much better at the one than at the other
ROUGHLY, WELL = 1, 3  # tries
USUAL = {"sdxl": Run(2, 128, 128), "sdxl-refiner": Run(2, 128, 128)}
FIRST = Run(2, 64, 64)  # a picture of usual size under guidance
NOT = (0, 0.0)
Known = dict[Kind, tuple[int, float]]  # tries, seconds


class Chooser:
    """Remembers what was measured, and for which size of picture."""

    def __init__(self) -> None:
        self._merge: Known = {}
        self._beside: Known = {}
        self._expected: dict[Kind, tuple[int, int]] = {}
        self._last: Run | None = None

    def recall(self, motion: Motion, moment: Moment, family: str) -> None:
        """As for the last picture, or for the usual one: what is merged in vain costs more than most pictures."""
        run = self._last or USUAL.get(family, FIRST)
        for key, target in motion.open.items():
            motion.ways[key] = self._guess(target, moment, run, family)

    def choose(self, motion: Motion, moment: Moment, run: Run, family: str) -> bool:
        """Did any parameter change its way?"""
        self._last = run
        before = dict(motion.ways)
        for key, target in motion.open.items():
            motion.ways[key] = self._measured(target, moment, run, family)
        for target in (one for key, one in motion.beside.items() if key not in motion.open):  # only to tell
            kind = kind_of(target, run, family)
            _at_least(ROUGHLY, self._beside, kind, partial(beside_seconds, target, ROUGHLY, run, family))
        return motion.ways != before

    def _guess(self, target: Target, moment: Moment, run: Run, family: str) -> Way:
        """Without measuring anything now."""
        kind = kind_of(target, run, family)
        runs, renewals = _times(target, moment)
        (merged, merge_s), (tried, beside_s) = self._merge.get(kind, NOT), self._beside.get(kind, NOT)
        if min(merged, tried) == WELL:
            return _better(merge_s * renewals, beside_s * runs)
        merge, beside = self._work(kind, target, run, family)
        return _better(merge * renewals, beside * runs)

    def _measured(self, target: Target, moment: Moment, run: Run, family: str) -> Way:
        """Of two that are far apart the better one is measured roughly, to be told."""
        kind = kind_of(target, run, family)
        runs, renewals = _times(target, moment)
        merge, beside = self._work(kind, target, run, family)
        clear = CLEAR if _on_cpu(target) else math.inf  # a GPU has no time for anything small
        merges, besides = merge * renewals < beside * runs * clear, beside * runs < merge * renewals * clear
        tries = WELL if merges and besides else ROUGHLY
        if besides:
            _at_least(tries, self._beside, kind, lambda: beside_seconds(target, tries, run, family))
        if merges:
            _at_least(tries, self._merge, kind, lambda: merge_seconds(target, tries))
        return self._guess(target, moment, run, family)

    def _work(self, kind: Kind, target: Target, run: Run, family: str) -> tuple[int, int]:
        if kind not in self._expected:
            self._expected[kind] = expected(target, run, family)
        return self._expected[kind]

    def seconds(self, motion: Motion, family: str) -> tuple[float, float]:
        """Of one change of everything that is merged, and of one run of everything beside."""
        if self._last is None:
            return 0.0, 0.0
        merge = beside = 0.0
        for key, target in motion.open.items():
            kind = kind_of(target, self._last, family)
            merge += self._merge.get(kind, NOT)[1] * (motion.ways[key] == "merged")
        for target in motion.beside.values():
            beside += self._beside.get(kind_of(target, self._last, family), NOT)[1]
        return merge, beside


def _better(merge: float, beside: float) -> Way:
    return "beside" if beside < merge * MARGIN else "merged"


def _at_least(tries: int, known: Known, kind: Kind, measure: Callable[[], float]) -> None:
    if known.get(kind, NOT)[0] < tries:
        known[kind] = tries, measure()


def _on_cpu(target: Target) -> bool:
    parameter = target.slot.parameter()
    return parameter is not None and parameter.device.type == "cpu"


def _times(target: Target, moment: Moment) -> tuple[int, int]:
    """How often the UNet runs, and how often the strength changes, in the whole picture."""
    requests = {id(patch.dial): patch.dial.request for patch in target.patches if patch.dial is not None}
    often = max(changes(one.unet, one.window, moment.steps) for one in requests.values())
    return max(moment.runs, moment.steps), often
