"""Applies requests to the loaded checkpoint; cooperates with the built-in Lora extension."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lib_adapters.hosts.webui import processing, settings, webui_modules
from lib_adapters.hosts.webui.builtin_lora import BuiltinLora, backed_up_weight
from lib_adapters.hosts.webui.image_job import ImageJob
from lib_adapters.hosts.webui.model_components import CheckpointComponents, components_of, is_dropped
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.session import FIRST_STEP, Mode, Report, Request, Session


class ModelSessions:
    def __init__(self) -> None:
        self.report = Report()
        self._registry = SessionRegistry()
        self._builtin_lora = BuiltinLora()
        self._shares_weights = False  # does the built-in write into the same weights?

    def detect_builtin(self, kinds: Sequence[str], data: processing.NetworkData | None) -> None:
        """Will the built-in write into the same weights for this picture?"""
        if "lora" in kinds or webui_modules.builtin_networks() is None:
            self._shares_weights = False
            return
        default = webui_modules.opt("sd_lora", settings.NONE_CHOICE)
        self._shares_weights = bool((data or {}).get("lora")) or default != settings.NONE_CHOICE

    def apply(self, model: nn.Module, image_job: ImageJob) -> Report:
        """Exactly these, and nothing on any other model."""
        self.report = self._apply(model, image_job)
        return self.report

    def _apply(self, model: nn.Module, image_job: ImageJob) -> Report:
        before = self._registry.mode(model)
        if before == "live" and not self._shares_weights:
            self._registry.remove(model)
        if self._shares_weights:
            report = self._registry.apply(model, image_job.requests, "live", image_job.first_step)
            self._builtin_lora.keep_applied(self._registry.patched_modules(model))
            return report
        if image_job.requests or before or settings.handles_lora():
            parts = components_of(model)
            self._builtin_lora.disable([root for root in (parts.unet, *parts.text_encoders) if root is not None])
        return self._registry.apply(model, image_job.requests, "merged", image_job.first_step)

    def session(self, model: nn.Module) -> Session | None:
        return self._registry.session(model)

    def ensure_applied(self, model: nn.Module, image_job: ImageJob) -> Session | None:
        """The same, with all that is wanted: it is put on now where the host brought this model in between."""
        if not self._registry.has_session(model):
            self.apply(model, image_job)
        return self._registry.session(model)

    def restore(self) -> None:
        """Every model gets its own weights back."""
        self._registry.restore()
        self.report = Report()

    def shutdown(self) -> None:
        """And the built-in is as if we had never been there."""
        self.restore()
        self._builtin_lora.remove_hooks()


def other_loaded_models(model: nn.Module) -> list[nn.Module]:
    """What else the host has in memory: it may go on with one of these without telling."""
    loaded: Any = getattr(webui_modules.import_module("sd_models").model_data, "loaded_sd_models", ())
    return [one for one in loaded if isinstance(one, nn.Module) and one is not model]


# One Session for each model object, weakly: the host switches, keeps, moves and drops models without telling.


@dataclass(frozen=True)
class SessionEntry:
    session: Session
    mode: Mode
    components: tuple[weakref.ref[nn.Module], ...]


class SessionRegistry:
    """What is active on which model. A model that the host lets go takes its entry with it."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[nn.Module, SessionEntry] = weakref.WeakKeyDictionary()

    def apply(
        self, model: nn.Module, requests: Sequence[Request], mode: Mode, step: SamplingStep = FIRST_STEP
    ) -> Report:
        """Exactly these on this model, and nothing on any other."""
        self._remove_all(other for other in list(self._entries) if other is not model)
        if not requests and model not in self._entries:
            return Report(mode=mode)
        return self._session(model, mode).activate(requests, step)

    def restore(self) -> None:
        """Every model gets its own weights back."""
        self._remove_all(list(self._entries))

    def mode(self, model: nn.Module) -> Mode | None:
        """How adapters are on this model now; None while none are."""
        entry = self._entries.get(model)
        return entry.mode if entry is not None and entry.session.active else None

    def session(self, model: nn.Module) -> Session | None:
        entry = self._entries.get(model)
        return None if entry is None else entry.session

    def has_session(self, model: nn.Module) -> bool:
        """Are adapters active on it, or was it tried?"""
        return model in self._entries

    def patched_modules(self, model: nn.Module) -> list[nn.Module]:
        """The modules that run with adapters live on them."""
        entry = self._entries.get(model)
        return [] if entry is None else entry.session.bypassed_modules()

    def remove(self, model: nn.Module) -> None:
        self._remove_all([model])

    def __len__(self) -> int:
        return sum(bool(entry.session.active) for entry in self._entries.values())

    def _session(self, model: nn.Module, mode: Mode) -> Session:
        parts = components_of(model)
        entry = self._entries.get(model)
        if entry is not None and entry.mode == mode and [ref() for ref in entry.components] == _roots(parts):
            return entry.session
        self._remove_all([model])
        session = Session(
            parts.unet, parts.text_encoders, mode=mode, cache_bytes=settings.cache_bytes(), base_of=original_weight
        )
        self._entries[model] = SessionEntry(session, mode, tuple(weakref.ref(root) for root in _roots(parts)))
        return session

    def _remove_all(self, models: Iterable[nn.Module]) -> None:
        for model in models:
            entry = self._entries.get(model)
            if entry is None:
                continue
            if not is_dropped(model):
                entry.session.deactivate()
            del self._entries[model]


def original_weight(module: nn.Module, name: str) -> Tensor | None:
    """What is to be changed, where the module holds something else; None where it holds just that."""
    kept = backed_up_weight(module, name)
    return fp16_weight(module, name) if kept is None else kept


def fp16_weight(module: nn.Module, name: str) -> Tensor | None:
    """With fp8 storage the host may keep a layer's weights in half beside it (`fp16_weight`): the exact ones."""
    kept = getattr(module, f"fp16_{name}", None)
    return kept if isinstance(kept, Tensor) else None


def _roots(parts: CheckpointComponents) -> list[nn.Module]:
    return [*([] if parts.unet is None else [parts.unet]), *parts.text_encoders]
