"""Tracks the active adapters of one model and restores it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from torch import nn
from typing_extensions import Self

from lib_adapters.files.cache import DEFAULT_CACHE_BYTES, AdapterCache
from lib_adapters.ops.torch_modes import plain_tensors
from lib_adapters.patching.apply_mode import ModeSelector
from lib_adapters.patching.checksum import OriginalChecksums
from lib_adapters.patching.controller import PatchController
from lib_adapters.patching.forward_patcher import ForwardPatcher
from lib_adapters.patching.match_requests import PatchPlan, build_plan
from lib_adapters.patching.owner import MODEL_LOCK, Owner, owners_on
from lib_adapters.patching.parameters import BaseOf
from lib_adapters.patching.report import ABANDONED, DISPLACED, TAKEN_OVER, AdapterReport, Report
from lib_adapters.patching.request import Request
from lib_adapters.patching.schedule_plan import SchedulePlan
from lib_adapters.patching.transaction import Transaction
from lib_adapters.patching.weight_patcher import WeightPatcher
from lib_adapters.prompt.schedule import SamplingStep

__all__ = ["AdapterReport", "Report", "Request", "Session"]

logger = logging.getLogger(__name__)
Mode = Literal["merged", "live"]
FIRST_STEP = SamplingStep(0, 1)


class Session:
    """The adapters of one model, which is held weakly: a Session does not keep a checkpoint in memory.

    Only one Session is active on a model: when another one activates on it, or on a component of it, the first one's
    adapters are removed. The adapters of an active Session that is garbage collected stay on the model until then.
    """

    def __init__(  # noqa: PLR0913 - all but the model are choices with a default
        self,
        unet: nn.Module | None = None,
        text_encoders: Sequence[nn.Module] = (),
        *,
        mode: Mode = "merged",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        offload: bool | None = None,
        base_of: BaseOf | None = None,
    ) -> None:
        """Prepare a Session for a UNet, text encoders, or both.

        `mode`: "live" computes every adapter as a bypass. `cache_bytes`: size of the cache of loaded adapters.
        `offload`: keep original weights in host memory; None decides by the free memory of the GPU.
        `base_of`: returns a host's more exact copy of a weight than the model's.
        """
        self._mode: Mode = mode
        self._cache = AdapterCache(cache_bytes)
        self._checksums = OriginalChecksums()
        self._weight_patcher = WeightPatcher(self._checksums, offload, base_of)
        self._forward_patcher = ForwardPatcher(base_of)
        self._controller = PatchController(self._weight_patcher, self._forward_patcher, ModeSelector())
        self._owner = Owner(
            self._weight_patcher, self._controller, self._before_forward, self._on_displaced, self._add_note
        )
        self._components = self._owner.find_components(unet, text_encoders)
        self._requests: list[Request] = []
        self._is_settled = True  # False during an activation, and after one that failed
        self._report = Report(mode=mode)

    def activate(self, requests: Iterable[Request], step: SamplingStep = FIRST_STEP) -> Report:
        """Make exactly these adapters active, and return the report. Safe to repeat.

        If anything raises, the adapters that were active stay active; once their merged weights have been overwritten,
        the original weights are restored instead, no adapter is active, and the report says so.
        `step`: the next sampling step, for schedules. The report holds the `error` of each file that cannot be used.
        """
        requests = list(requests)
        with MODEL_LOCK:
            stays = self._is_settled and self._is_active(requests) and self._is_in_place()
            if stays and (requests or not self._orphans(self._components.all())):
                self.set_step(step)
                return self._report
        return self._apply(requests, step)

    def deactivate(self) -> None:
        """Restore the model's original weights, bit for bit. Safe to repeat.

        Adapters that another Session has activated since then stay, unless that Session was garbage collected.
        """
        self.activate(())

    def set_step(self, step: SamplingStep, rows: Sequence[int] | None = None) -> None:
        """Set the sampling step; call it before each call of the UNet.

        `rows`: the number of each batch row, as in `Request.rows`; the UNet calls that follow take them in order,
        however a host splits its batch. If anything raises, the original weights are restored.
        """
        self._run_or_restore(lambda: self._controller.set_step(step, rows))

    def set_text_row(self, row: int | None) -> None:
        """Select the batch row whose prompt is encoded next; requests limited to other rows are disabled meanwhile."""
        self._run_or_restore(lambda: self._controller.set_text_row(row))

    @property
    def is_dynamic(self) -> bool:
        """True if a strength depends on the sampling step or on the batch row."""
        return self._controller.is_dynamic

    def verify(self) -> bool:
        """True if the original weights are byte for byte what they were when they were first patched."""
        with MODEL_LOCK:
            self._weight_patcher.refresh()
            others = [owner for owner in owners_on(self._components.modules()) if owner is not self._owner]
            foreign = {key: one for owner in others for key, one in owner.originals().items()}
            return self._checksums.match(self._owner.originals(), foreign) and self._owner.can_restore()

    @property
    def report(self) -> Report:
        """The report of the active adapters."""
        return self._report

    @property
    def family(self) -> str:
        """The family of the base model, a key of FAMILY_NAMES."""
        return self._components.layer_table().family

    @property
    def active(self) -> tuple[Request, ...]:
        """The requests of the last activation, with those that the report rejects."""
        return tuple(self._requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.deactivate()

    def _apply(self, requests: list[Request], step: SamplingStep | None = None) -> Report:
        """Apply requests; without a step, sampling goes on with the current one."""
        started = time.perf_counter()
        fitted, family = self._build_plan(requests)
        with MODEL_LOCK:
            self._is_settled = False
            notes = self._take_over(bool(requests))
            with Transaction() as transaction:
                transaction.on_rollback(self._restore_if_abandoned)
                notes += self._owner.undo_foreign_changes(transaction)
                self._install_hooks(fitted, transaction)
                self._controller.start(
                    SchedulePlan(fitted.params, fitted.strengths, self._mode == "live"), step, family, transaction
                )
                transaction.on_rollback(partial(self._remember, self._requests, self._report))
                seconds = time.perf_counter() - started
                self._remember(requests, Report(fitted.reports, self._mode, seconds, notes=notes))
                self._update_report()
            self._is_settled = True
            for note in notes:
                logger.warning(note)
            return self._report

    def _restore_if_abandoned(self) -> None:
        """Finish a failed change that could not go back to the merged weights before."""
        if self._weight_patcher.was_abandoned:
            self._abandon()

    def _abandon(self) -> None:
        """Restore the original weights; no adapter is active, and the report says so."""
        self._owner.restore()
        self._remember([], Report(mode=self._mode, notes=[ABANDONED]))

    def _take_over(self, entirely: bool) -> list[str]:
        """Take the model over from other Sessions and return messages; unless `entirely`, only from collected ones."""
        modules = list(self._components.modules())
        others = [one for one in owners_on(modules) if one is not self._owner] if entirely else self._orphans(modules)
        notes = [TAKEN_OVER] if others else []
        for other in others:
            notes += other.hand_over()
            self._owner.unrestored.inherit(other.unrestored)
        return notes

    @staticmethod
    def _orphans(modules: Iterable[nn.Module]) -> list[Owner]:
        return [owner for owner in owners_on(modules) if owner.is_orphan]

    def _add_note(self, message: str) -> None:
        """Add a message to the report, and log it once."""
        if message not in self._report.notes:
            self._report.notes.append(message)
            logger.warning(message)

    def _on_displaced(self) -> None:
        """Mark this Session as inactive, because another one takes the model over."""
        self._is_settled = False
        self._remember([], Report(mode=self._mode, notes=[DISPLACED]))

    def _remember(self, requests: list[Request], report: Report) -> None:
        self._requests, self._report = requests, report

    def _install_hooks(self, plan: PatchPlan, transaction: Transaction) -> None:
        refs = [target.ref.tied_to or target.ref for target in plan.params.values()]
        patched = [module for ref in refs if (module := ref.module()) is not None]
        components = self._components.all() if patched else []
        self._owner.install_hooks(components, [*components, *patched], transaction)

    def _update_report(self) -> None:
        self._report.schedule_note, self._report.rows_unresolved = (
            self._controller.schedule_note(),
            self._controller.rows_unresolved,
        )
        for request, report in zip(self._requests, self._report.adapters, strict=True):
            report.mode = self._controller.mode_of(request.key[0])
            report.out_of_range = max(report.out_of_range, self._controller.overflowing_of(request.key[0]))

    def _run_or_restore(self, action: Callable[[], bool]) -> None:
        """Run an action, which returns whether the report changes; restore the original weights if it raises."""
        with MODEL_LOCK:
            if not self._controller.is_dynamic:
                return
            try:
                self._ensure_in_place()
                if action():
                    self._update_report()
            except BaseException:  # restore everything rather than leave a partial state
                self._is_settled = False
                self._abandon()
                raise

    @plain_tensors()
    def _build_plan(self, requests: list[Request]) -> tuple[PatchPlan, str]:
        if not requests:
            return PatchPlan(), ""
        table, device = self._components.layer_table(), self._components.device()
        return build_plan(requests, table, lambda adapter: self._cache.get(adapter, device)), table.family

    def bypassed_modules(self) -> list[nn.Module]:
        """Return the modules with a patched forward."""
        return self._forward_patcher.modules()

    def _before_forward(self, root: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Forward hook: re-apply the adapters if the host has changed the model since the last call."""
        with MODEL_LOCK:
            if self._controller.is_dynamic and root is self._components.unet():
                self._run_or_restore(lambda: self._controller.before_forward((*args, *kwargs.values())))
            else:
                self._ensure_in_place()

    def _ensure_in_place(self) -> None:
        """Re-apply the adapters where the host has replaced parameters."""
        if (
            self._mode == "live" and not self._controller.is_dynamic
        ):  # other code may write weights, because no merge depends on them
            if self._owner.has_changed():
                self._apply(self._requests)
            return
        if self._is_in_place():
            return
        self._weight_patcher.refresh()  # enough if the host only moved them, as it does in low-VRAM mode
        self._forward_patcher.precompute()
        if not self._is_in_place():
            self._apply(self._requests)

    def _is_active(self, requests: list[Request]) -> bool:
        """True if these requests are active and none failed: a file that could not be read may be readable now."""
        failed = any(one.error for one in self._report.adapters)
        return not failed and _keys(requests) == _keys(self._requests)

    def _is_in_place(self) -> bool:
        return (
            self._weight_patcher.is_in_place()
            and self._forward_patcher.is_installed()
            and not self._owner.has_changed()
        )


def _keys(requests: Iterable[Request]) -> list[tuple[str, str]]:
    return sorted(request.key for request in requests)
