"""The hand on the dials: at each step, row and text, what moves is set, and no more of the model is touched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from lib_adapters.ops.modes import exact
from lib_adapters.patching.change import Change
from lib_adapters.patching.choice import Chooser
from lib_adapters.patching.cost import Run
from lib_adapters.patching.live import Live
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.motion import Motion
from lib_adapters.prompt.schedule import Moment


class Pace:
    """Turns the dials of one Motion, and has what follows from them done."""

    def __init__(self, merged: Merged, live: Live, chooser: Chooser) -> None:
        self._merged, self._live, self._chooser = merged, live, chooser
        self._motion = Motion({}, ())
        self._family = ""
        self._script_tags = True  # False until the size of the picture is known
        self._rows: tuple[int, ...] | None = None
        self._next = 0  # row of the run that comes
        self.lost = False  # a run whose rows could not be told apart

    def begin(self, motion: Motion, moment: Moment | None, family: str, change: Change) -> None:
        """Exactly this plan. Without a moment, as far as the last one was."""
        rows = None if moment is not None else self._rows
        motion.turn(moment or self._motion.moment)
        motion.choose(rows)
        motion.speak(self._motion.voice)
        self._chooser.recall(motion, motion.moment, family)
        with exact():
            motion.settle(self._merged.base_of)
            self._put_on(motion, change)
        change.back(partial(self._follow, self._motion, self._family, self._rows, self._script_tags))
        self._follow(motion, family, rows, not (motion.open or motion.beside))
        self._forget()

    def _follow(self, motion: Motion, family: str, rows: tuple[int, ...] | None, chosen: bool) -> None:
        self._motion, self._family, self._rows, self._script_tags = motion, family, rows, chosen

    @property
    def moves(self) -> bool:
        """Does anything depend on the step, the row or the text?"""
        return self._motion.moves

    @property
    def moment(self) -> Moment:
        """The last one that it was told."""
        return self._motion.moment

    def at(self, moment: Moment, rows: Sequence[int] | None) -> bool:
        """Are other modules patched now, or is there something else to tell? Without rows a picture begins."""
        self._rows, self._next = None if rows is None else tuple(rows), 0
        self._motion.choose(self._rows)
        found = self.lost and rows is None
        if rows is None:
            self._forget()
        return (self._motion.turn(moment) and self._renew()) or found

    def _forget(self) -> None:
        self.lost = False
        self._live.begin()

    def speak(self, voice: int | None) -> bool:
        """Whose text is encoded next; are other modules patched now?"""
        return self._motion.speak(voice) and self._renew()

    def before(self, given: tuple[object, ...]) -> bool:
        """The UNet runs now, with these arguments: they tell the picture's size and how many rows it takes."""
        latent = next((one for one in given if isinstance(one, Tensor) and one.ndim == 4), None)
        if latent is None:
            return False
        before = self.lost
        if self._rows is not None:
            self._motion.choose(rows := self._take(len(latent)))
            self.lost = before or not rows or self._live.lost
        if self._script_tags:
            return self.lost != before
        self._script_tags = True
        run = Run(len(latent), *latent.shape[2:])
        if not self._chooser.choose(self._motion, self._motion.moment, run, self._family):
            return True  # there is something to tell
        self._renew()
        return True

    def _take(self, count: int) -> tuple[int, ...]:
        """The next rows; a host that runs the same batch again begins anew."""
        assert self._rows is not None
        if self._next + count > len(self._rows):
            self._next = 0
        rows = self._rows[self._next : self._next + count]
        self._next += count
        return rows if len(rows) == count else ()

    def _renew(self) -> bool:
        with exact(), Change() as change:
            return self._put_on(self._motion, change)

    def _put_on(self, motion: Motion, change: Change) -> bool:
        """Return whether other parameters are merged than before. What may run out of memory comes first."""
        exchange = self._live.prepare(motion.live())
        found = self._merged.apply(motion.merged(), change)
        exchange(change)
        return found

    def give_back(self) -> None:
        """The model as it was."""
        self._motion = Motion({}, ())
        self._merged.restore()
        self._live.restore()

    def mode_of(self, file: str) -> str:
        """How an adapter is followed, in words; `file` is its key."""
        return self._motion.ways_of(file)

    def out_of_range(self, file: str) -> int:
        """Return the number of parameters not merged, because the result of this file overflows (infinite or NaN)."""
        return self._merged.out_of_range(file)

    def told(self) -> str:
        """How what moves is followed, in one sentence; "" where nothing does."""
        counts = self._motion.counts()
        if not counts or not self._script_tags:  # what is not measured yet is not told of
            return ""
        merge, beside = self._chooser.seconds(self._motion, self._family)
        taken = {"merged": f" ({merge:.3f} s)" if merge else "", "beside": f" ({beside:.3f} s a run)" if beside else ""}
        parts = [f"{number} {_WAYS[way]}{taken.get(way, '')}" for way, number in counts.items()]
        return f"of the weights that change while drawing, {', '.join(parts)}"


_WAYS = {"merged": "merged anew at each change", "beside": "beside their layers", "live": "computed in each run"}
