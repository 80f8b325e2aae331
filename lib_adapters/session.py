"""The only memory: which adapters are active on one model, and what it takes to give the model back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from torch import nn
from typing_extensions import Self

from lib_adapters.files.cache import DEFAULT_BYTES, LoadedCache
from lib_adapters.ops.modes import ordinary
from lib_adapters.patching.change import Change
from lib_adapters.patching.checksum import Witness
from lib_adapters.patching.choice import Chooser
from lib_adapters.patching.fitting import Fitted, fit_all
from lib_adapters.patching.live import Live
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.motion import Motion
from lib_adapters.patching.owner import MODEL_LOCK, Owner, owners_on
from lib_adapters.patching.pace import Pace
from lib_adapters.patching.pointer import BaseOf
from lib_adapters.patching.report import ABANDONED, DISPLACED, TAKEN_OVER, AdapterReport, Report
from lib_adapters.patching.request import Request
from lib_adapters.prompt.schedule import Moment

__all__ = ["AdapterReport", "Report", "Request", "Session"]

logger = logging.getLogger(__name__)
Mode = Literal["merged", "live"]
START = Moment(0, 1)


class Session:
    """Adapters on one model. Holds the model weakly: when its owner lets it go, so do we.

    Only one Session is active on a model: when another one activates on it, or on a component of it, the first one's
    adapters are removed. The adapters of an active Session that is dropped stay on the model until then.
    """

    def __init__(  # noqa: PLR0913 - all but the model are choices with a default
        self,
        unet: nn.Module | None = None,
        text_encoders: Sequence[nn.Module] = (),
        *,
        mode: Mode = "merged",
        cache_bytes: int = DEFAULT_BYTES,
        offload: bool | None = None,
        base_of: BaseOf | None = None,
    ) -> None:
        """`offload`: keep pristine weights in host memory; None decides by what is free on the GPU.

        `base_of`: a host's more exact copy of a weight than the model's. `cache_bytes`: of adapters kept in memory.
        """
        self._mode: Mode = mode
        self._cache = LoadedCache(cache_bytes)
        self._witness = Witness()
        self._merged = Merged(self._witness, offload, base_of)
        self._live = Live(base_of)
        self._pace = Pace(self._merged, self._live, Chooser())
        self._owner = Owner(self._merged, self._pace, self._before_run, self._displaced, self._say)
        self._roots = self._owner.roots(unet, text_encoders)
        self._requests: list[Request] = []
        self._settled = True  # False while, and after, an activation that did not come to its end
        self._report = Report(mode=mode)

    def activate(self, requests: Iterable[Request], moment: Moment = START) -> Report:
        """Make exactly these adapters active. Safe to repeat.

        If anything raises, the adapters that were active stay active; once their merged weights have been overwritten,
        the original weights are restored instead, no adapter is active, and the report says so.
        `moment`: the first step to come, where strengths change. A file that cannot be used has its `error` told.
        """
        requests = list(requests)
        with MODEL_LOCK:
            stays = self._settled and self._is_active(requests) and self._in_place()
            if stays and (requests or not self._orphans(self._roots.all())):
                self.at(moment)
                return self._report
        return self._apply(requests, moment)

    def deactivate(self) -> None:
        """Give the model its own weights back, bit for bit. Safe to repeat.

        Adapters that another Session has activated since then stay, unless that Session was dropped.
        """
        self.activate(())

    def at(self, moment: Moment, rows: Sequence[int] | None = None) -> None:
        """Called before each run of the UNet: strengths become what they are in this step.

        `rows`: a number for each row of the batch, as requests name them in `scope`; runs that follow take them in
        order, however a host cuts its batch. If anything raises, the model has its own weights.
        """
        self._go(lambda: self._pace.at(moment, rows))

    def speak(self, voice: int | None) -> None:
        """Called before a text is encoded: whose it is. A request with a scope acts on no other's text."""
        self._go(lambda: self._pace.speak(voice))

    @property
    def moves(self) -> bool:
        """Does anything depend on the step or on the row?"""
        return self._pace.moves

    def verify(self) -> bool:
        """Are the pristine weights, byte for byte, what they were when they were first touched?"""
        with MODEL_LOCK:
            self._merged.settle()
            others = [owner for owner in owners_on(self._roots.modules()) if owner is not self._owner]
            foreign = {key: one for owner in others for key, one in owner.original().items()}
            return self._witness.holds(self._owner.original(), foreign) and self._owner.can_restore()

    @property
    def report(self) -> Report:
        """Of what is active now."""
        return self._report

    @property
    def family(self) -> str:
        """The base model's, a key of FAMILY_NAMES."""
        return self._roots.table().family

    @property
    def active(self) -> tuple[Request, ...]:
        """What was last asked for, also what the report refuses."""
        return tuple(self._requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.deactivate()

    def _apply(self, requests: list[Request], moment: Moment | None = None) -> Report:
        """Without a moment: in the middle of a picture, which goes on."""
        started = time.perf_counter()
        fitted, family = self._fitted(requests)
        with MODEL_LOCK:
            self._settled = False
            notes = self._take_over(bool(requests))
            with Change() as change:
                change.back(self._restore_if_abandoned)
                notes += self._owner.undo_foreign_changes(change)
                self._watch(fitted, change)
                self._pace.begin(Motion(fitted.targets, fitted.dials, self._mode == "live"), moment, family, change)
                change.back(partial(self._remember, self._requests, self._report))
                seconds = time.perf_counter() - started
                self._remember(requests, Report(fitted.reports, self._mode, seconds, notes=notes))
                self._tell()
            self._settled = True
            for note in notes:
                logger.warning(note)
            return self._report

    def _restore_if_abandoned(self) -> None:
        """Finish a failed change that could not go back to the merged weights before."""
        if self._merged.abandoned:
            self._abandon()

    def _abandon(self) -> None:
        """Restore the original weights; no adapter is active, and the report says so."""
        self._owner.restore()
        self._remember([], Report(mode=self._mode, notes=[ABANDONED]))

    def _take_over(self, wholly: bool) -> list[str]:
        """Restore the model from other Sessions and return messages; unless `wholly`, only from dropped ones."""
        modules = list(self._roots.modules())
        others = [one for one in owners_on(modules) if one is not self._owner] if wholly else self._orphans(modules)
        notes = [TAKEN_OVER] if others else []
        for other in others:
            notes += other.hand_over()
            self._owner.unrestored.inherit(other.unrestored)
        return notes

    @staticmethod
    def _orphans(modules: Iterable[nn.Module]) -> list[Owner]:
        return [owner for owner in owners_on(modules) if owner.is_orphan]

    def _say(self, sentence: str) -> None:
        """Add a message to the report, and log it once."""
        if sentence not in self._report.notes:
            self._report.notes.append(sentence)
            logger.warning(sentence)

    def _displaced(self) -> None:
        """Mark this Session as inactive, because another one takes the model over."""
        self._settled = False
        self._remember([], Report(mode=self._mode, notes=[DISPLACED]))

    def _remember(self, requests: list[Request], report: Report) -> None:
        self._requests, self._report = requests, report

    def _watch(self, fitted: Fitted, change: Change) -> None:
        slots = [target.slot.twin or target.slot for target in fitted.targets.values()]
        patched = [module for slot in slots if (module := slot.module()) is not None]
        roots = self._roots.all() if patched else []
        self._owner.watch(roots, [*roots, *patched], change)

    def _tell(self) -> None:
        self._report.motion, self._report.lost = self._pace.told(), self._pace.lost
        for request, report in zip(self._requests, self._report.adapters, strict=True):
            report.mode = self._pace.mode_of(request.key[0])
            report.out_of_range = max(report.out_of_range, self._pace.out_of_range(request.key[0]))

    def _go(self, work: Callable[[], bool]) -> None:
        """`work` says whether there is something to tell."""
        with MODEL_LOCK:
            if not self._pace.moves:
                return
            try:
                self._sure()
                if work():
                    self._tell()
            except BaseException:  # restore everything rather than leave a partial state
                self._settled = False
                self._abandon()
                raise

    @ordinary()
    def _fitted(self, requests: list[Request]) -> tuple[Fitted, str]:
        if not requests:
            return Fitted(), ""
        table, device = self._roots.table(), self._roots.device()
        return fit_all(requests, table, lambda adapter: self._cache.get(adapter, device)), table.family

    def live_layers(self) -> list[nn.Module]:
        """The modules whose forward adds a delta while it runs."""
        return self._live.modules()

    def _before_run(self, root: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> None:
        """The host has changed the model behind our back: put the adapters on what it has now."""
        with MODEL_LOCK:
            if self._pace.moves and root is self._roots.unet():
                self._go(lambda: self._pace.before((*given, *named.values())))
            else:
                self._sure()

    def _sure(self) -> None:
        """The adapters are on what the model has now."""
        if self._mode == "live" and not self._pace.moves:  # other code may write weights: no merge depends on them
            if self._owner.has_changed():
                self._apply(self._requests)
            return
        if self._in_place():
            return
        self._merged.settle()  # moved only, as a host short of memory does before every run?
        self._live.settle()
        if not self._in_place():
            self._apply(self._requests)

    def _is_active(self, requests: list[Request]) -> bool:
        """A file that could not be read may be there again."""
        failed = any(one.error for one in self._report.adapters)
        return not failed and _keys(requests) == _keys(self._requests)

    def _in_place(self) -> bool:
        return self._merged.in_place() and self._live.in_place() and not self._owner.has_changed()


def _keys(requests: Iterable[Request]) -> list[tuple[str, str]]:
    return sorted(request.key for request in requests)
