"""The only memory: which adapters are active on one model, and what it takes to give the model back."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal

import torch
from torch import nn
from typing_extensions import Self

from lib_adapters.errors import AdapterError, FamilyMismatch
from lib_adapters.files.adapter import Adapter
from lib_adapters.files.cache import LoadedCache
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.patching.checksum import Witness
from lib_adapters.patching.guard import Guards
from lib_adapters.patching.live import Live
from lib_adapters.patching.merge import exact
from lib_adapters.patching.merged import Merged
from lib_adapters.patching.plan import Fit, Targets, assemble, fit
from lib_adapters.patching.pointer import BaseOf
from lib_adapters.patching.report import AdapterReport, Report
from lib_adapters.patching.request import Request
from lib_adapters.patching.targets import Table

__all__ = ["AdapterReport", "Report", "Request", "Session"]

MOST_WORDS = 5  # that a report names
Mode = Literal["merged", "live"]


class Session:
    """Adapters on one model. Holds the model weakly: when its owner lets it go, so do we."""

    def __init__(  # noqa: PLR0913 - all but the model are choices with a default
        self,
        unet: nn.Module | None = None,
        text_encoders: Sequence[nn.Module] = (),
        *,
        mode: Mode = "merged",
        cache_bytes: int = 1 << 30,
        offload: bool | None = None,
        base_of: BaseOf | None = None,
    ) -> None:
        """`offload`: keep pristine weights in host memory; None decides by what is free on the GPU.

        `base_of`: where a host keeps a more exact copy of a weight than the one in the model.
        """
        self._unet = None if unet is None else weakref.ref(unet, self._model_died)
        self._text_encoders = [weakref.ref(encoder, self._model_died) for encoder in text_encoders]
        self._mode: Mode = mode
        self._cache = LoadedCache(cache_bytes)
        self._witness = Witness()
        self._merged = Merged(self._witness, offload, base_of)
        self._live = Live(base_of)
        self._guards = Guards()
        self._requests: list[Request] = []
        self._settled = True  # False while, and after, an activation that did not come to its end
        self._report = Report(mode=mode)

    def activate(self, requests: Iterable[Request]) -> Report:
        """Make exactly these adapters active: wholly, or not at all if anything raises. Safe to repeat."""
        requests = list(requests)
        if self._settled and _keys(requests) == _keys(self._requests) and self._in_place():
            return self._report
        return self._apply(requests)

    def deactivate(self) -> None:
        """Give the model its own weights back, bit for bit. Safe to repeat."""
        self.activate(())

    def verify(self) -> bool:
        """Are the pristine weights, byte for byte, what they were when they were first touched?"""
        self._merged.settle()
        return self._witness.holds(self._merged.pristine())

    @property
    def family(self) -> str:
        return self._table().family

    @property
    def active(self) -> tuple[Request, ...]:
        return tuple(self._requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()

    def _apply(self, requests: list[Request]) -> Report:
        started = time.perf_counter()
        self._settled = False
        reports, targets = self._plan(requests)
        with exact():
            self._merged.apply(targets if self._mode == "merged" else {})
            self._live.apply(targets if self._mode == "live" else {})
        self._requests = requests
        self._watch()
        self._settled = True
        self._report = Report(reports, self._mode, time.perf_counter() - started)
        return self._report

    def _plan(self, requests: list[Request]) -> tuple[list[AdapterReport], Targets]:
        if not requests:
            return [], {}
        table = self._table()
        pairs = [self._fit(request, table) for request in requests]
        return [report for report, _ in pairs], assemble([found for _, found in pairs if found])

    def _fit(self, request: Request, table: Table) -> tuple[AdapterReport, Fit | None]:
        started = time.perf_counter()
        adapter = request.adapter
        report = AdapterReport(adapter.name, request.unet, request.te, total=len(adapter.modules))
        report.notes = [*adapter.notes, *_words(adapter)]
        try:
            found = fit(request, self._cache.get(adapter, self._device()), table)
            report.unmatched = found.unmatched
            _refuse(request, found, table)
        except AdapterError as error:
            report.error = str(error)
            return report, None
        finally:
            report.seconds = time.perf_counter() - started
        report.matched, report.algorithms = found.matched.total(), dict(found.matched)
        return report, found

    def _watch(self) -> None:
        self._guards.take_off()
        if len(self._merged):
            self._guards.put_on(self._roots(), self._before_run)
            self._guards.watch_loading(self._merged.modules(), self._before_load)

    def live_layers(self) -> list[nn.Module]:
        """The modules whose forward adds a delta while it runs."""
        return self._live.modules()

    def _before_run(self, _: nn.Module) -> None:
        """The host has changed the model behind our back: put the adapters on what it has now."""
        if not self._in_place():
            self._merged.settle()  # moved only, as a host short of memory does before every run?
        if not self._in_place():
            self._apply(self._requests)

    def _before_load(self, module: nn.Module) -> None:
        self._merged.release(module)

    def _in_place(self) -> bool:
        return self._merged.in_place() and self._live.in_place()

    def _table(self) -> Table:
        encoders = [encoder for ref in self._text_encoders if (encoder := ref()) is not None]
        return Table.of(None if self._unet is None else self._unet(), encoders)

    def _roots(self) -> list[nn.Module]:
        refs = [*([] if self._unet is None else [self._unet]), *self._text_encoders]
        return [root for ref in refs if (root := ref()) is not None]

    def _device(self) -> torch.device:
        """Where the factors are wanted: on the UNet's device; a text encoder elsewhere gets its own copy."""
        parameters = (p for root in self._roots() for p in root.parameters() if not p.is_meta)
        return next(parameters, torch.empty(0)).device

    def _model_died(self, _: weakref.ref[nn.Module]) -> None:
        self._merged.bury()


def _keys(requests: Iterable[Request]) -> list[tuple[str, float, float, int]]:
    return sorted(request.key for request in requests)


def _words(adapter: Adapter) -> list[str]:
    named = ", ".join(repr(name) for name in adapter.bundled[:MOST_WORDS])
    more = f" and {len(adapter.bundled) - MOST_WORDS} more" if len(adapter.bundled) > MOST_WORDS else ""
    return [f"brings embeddings for {named}{more}"] if named else []


def _refuse(request: Request, found: Fit, table: Table) -> None:
    """Another family's file is not half applied; but what fits this model wholly is for this model."""
    adapter, ours = request.adapter, table.family
    if found.missing and adapter.family != ours and "unknown" not in (adapter.family, ours):
        made_for, model = (FAMILY_NAMES.get(family, family) for family in (adapter.family, ours))
        raise FamilyMismatch(
            f"{adapter.name} was made for {made_for}, but this model is {model}: "
            "nothing of it was applied. Use a file made for this model."
        )
    if not found.layers:
        why = f" ({found.unmatched[0][1]})" if found.unmatched else ""
        raise AdapterError(f"{adapter.name}: no layer of this model fits the file{why}, so nothing of it was applied.")
