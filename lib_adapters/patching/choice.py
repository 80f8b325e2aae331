"""Merge again at each change, or run beside the layer? Measured on this machine, once for each kind of layer.

Whichever takes less time in the whole picture is taken, layer by layer.
"""

from __future__ import annotations

from lib_adapters.patching.cost import Cost, Kind, Run, kind_of, measured
from lib_adapters.patching.motion import Motion
from lib_adapters.patching.patch import Target
from lib_adapters.prompt.schedule import Moment, changes

MARGIN = 0.95  # what is merged stays so where it is as good as even


class Chooser:
    """Remembers what was measured, and for which size of picture."""

    def __init__(self) -> None:
        self._costs: dict[Kind, Cost] = {}
        self._last: Run | None = None

    def recall(self, motion: Motion, moment: Moment, family: str) -> None:
        """Choose as for the last picture, where everything is known already: then nothing is merged in vain."""
        if self._last is not None:
            kinds = [kind_of(target, self._last, family) for target in motion.open.values()]
            if all(kind in self._costs for kind in kinds):
                self._choose(motion, moment, self._last, family)

    def choose(self, motion: Motion, moment: Moment, run: Run, family: str) -> bool:
        """Did any parameter change its way?"""
        self._last = run
        for target in (motion.open | motion.beside).values():  # of the latter only to tell what they cost
            if (kind := kind_of(target, run, family)) not in self._costs:
                self._costs[kind] = measured(target, run, family)
        return self._choose(motion, moment, run, family)

    def _choose(self, motion: Motion, moment: Moment, run: Run, family: str) -> bool:
        before = dict(motion.ways)
        for key, target in motion.open.items():
            cost = self._costs[kind_of(target, run, family)]
            runs, renewals = _times(target, moment)
            motion.ways[key] = "beside" if cost.beside * runs < cost.merge * renewals * MARGIN else "merged"
        return motion.ways != before

    def seconds(self, motion: Motion, family: str) -> tuple[float, float]:
        """Of one change of everything that is merged, and of one run of everything beside."""
        if self._last is None:
            return 0.0, 0.0
        run, nothing = self._last, Cost(0.0, 0.0)
        merged = [target for key, target in motion.open.items() if motion.ways[key] == "merged"]
        costs = [self._costs.get(kind_of(target, run, family), nothing) for target in merged]
        apart = [self._costs.get(kind_of(target, run, family), nothing) for target in motion.beside.values()]
        return sum(cost.merge for cost in costs), sum(cost.beside for cost in apart)


def _times(target: Target, moment: Moment) -> tuple[int, int]:
    """How often the UNet runs, and how often the strength changes, in the whole picture."""
    requests = {id(patch.dial): patch.dial.request for patch in target.patches if patch.dial is not None}
    often = max(changes(one.unet, one.window, moment.steps) for one in requests.values())
    return max(moment.runs, moment.steps), often
