"""Matching of requests to a model, with a report of what each changes and what it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lib_adapters.algorithms.tlora import TLora
from lib_adapters.errors import AdapterError, FamilyMismatch
from lib_adapters.files.adapter import Adapter, LoadedAdapter
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.patch import PatchesByParam, ScheduledStrength
from lib_adapters.patching.plan import AdapterMatch, group_by_parameter, match_adapter
from lib_adapters.patching.report import AdapterReport
from lib_adapters.patching.request import Request

_FEWER = "T-LoRA trains fewer ranks where there is more noise; dyn=timestep draws it so too"
# A file of another family is applied only if at most one layer in 20 is missing: a full SD1 file misses 1 of 11 on SD2.
MIN_LAYERS_PER_MISSING = 20
MAX_EMBEDDING_NAMES = 5  # that a report names


@dataclass
class PatchPlan:
    """All requests on one model: what is told, what is changed, and what can be turned."""

    reports: list[AdapterReport] = field(default_factory=list)
    params: PatchesByParam = field(default_factory=dict)
    strengths: list[ScheduledStrength] = field(default_factory=list)


def build_plan(requests: Sequence[Request], table: LayerTable, load: Callable[[Adapter], LoadedAdapter]) -> PatchPlan:
    """Raises no AdapterError: that of a file stands in its report, and nothing of it is applied."""
    pairs = [_fit(request, table, load) for request in requests]
    fits = [found for _, found in pairs if found]
    scheduled_strengths = [scheduled for found in fits for scheduled in found.strengths.values()]
    return PatchPlan([report for report, _ in pairs], group_by_parameter(fits), scheduled_strengths)


def _fit(
    request: Request, table: LayerTable, load: Callable[[Adapter], LoadedAdapter]
) -> tuple[AdapterReport, AdapterMatch | None]:
    started = time.perf_counter()
    adapter = request.adapter
    report = AdapterReport(adapter.name, request.unet, request.te, total=len(adapter.layers))
    report.notes = [*adapter.notes, *_words(adapter)]
    try:
        found = match_adapter(request, load(adapter), table)
        report.unmatched = found.unmatched
        _refuse(request, found, table)
    except AdapterError as error:
        report.error = str(error)
        return report, None
    finally:
        report.seconds = time.perf_counter() - started
    report.matched, report.algorithms = found.matched.total(), dict(found.matched)
    report.disabled_by_blocks = found.disabled_by_blocks
    report.notes += [_FEWER] if TLora.label in found.matched and request.dyn is None else []
    return report, found


def _words(adapter: Adapter) -> Iterable[str]:
    named = ", ".join(repr(name) for name in adapter.bundled_embeddings[:MAX_EMBEDDING_NAMES])
    more = (
        f" and {len(adapter.bundled_embeddings) - MAX_EMBEDDING_NAMES} more"
        if len(adapter.bundled_embeddings) > MAX_EMBEDDING_NAMES
        else ""
    )
    return [f"brings embeddings for {named}{more}"] if named else []


def _refuse(request: Request, found: AdapterMatch, table: LayerTable) -> None:
    """Raise FamilyMismatch for a file of another family, unless almost all of its layers fit this model."""
    adapter, ours = request.adapter, table.family
    fits = found.unmatched_count * MIN_LAYERS_PER_MISSING <= found.layers
    if not fits and adapter.family != ours and "unknown" not in (adapter.family, ours):
        made_for, model = (FAMILY_NAMES.get(family, family) for family in (adapter.family, ours))
        raise FamilyMismatch(
            f"{adapter.name} was made for {made_for}, but this model is {model}: "
            "nothing of it was applied. Use a file made for this model."
        )
    if not found.layers:
        why = f" ({found.unmatched[0][1]})" if found.unmatched else ""
        raise AdapterError(f"{adapter.name}: no layer of this model fits the file{why}, so nothing of it was applied.")
