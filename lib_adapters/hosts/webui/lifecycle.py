"""One Session for each model object, weakly: the host switches, keeps, moves and drops models without telling."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lib_adapters.hosts.webui import settings
from lib_adapters.hosts.webui.builtin import pristine
from lib_adapters.hosts.webui.model import Parts, is_dropped, parts_of
from lib_adapters.prompt.schedule import Moment
from lib_adapters.session import START, Mode, Report, Request, Session


@dataclass(frozen=True)
class Entry:
    session: Session
    mode: Mode
    roots: tuple[weakref.ref[nn.Module], ...]


class Sessions:
    """What is active on which model. A model that the host lets go takes its entry with it."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[nn.Module, Entry] = weakref.WeakKeyDictionary()

    def activate(
        self, model: nn.Module, requests: Sequence[Request], mode: Mode, moment: Moment = START
    ) -> Report:
        """Exactly these on this model, and nothing on any other."""
        self._leave(other for other in list(self._entries) if other is not model)
        if not requests and model not in self._entries:
            return Report(mode=mode)
        return self._session(model, mode).activate(requests, moment)

    def restore(self) -> None:
        """Every model gets its own weights back."""
        self._leave(list(self._entries))

    def mode(self, model: nn.Module) -> Mode | None:
        """How adapters are on this model now; None while none are."""
        entry = self._entries.get(model)
        return entry.mode if entry is not None and entry.session.active else None

    def session(self, model: nn.Module) -> Session | None:
        entry = self._entries.get(model)
        return None if entry is None else entry.session

    def is_on(self, model: nn.Module) -> bool:
        """Are adapters active on it, or was it tried?"""
        return model in self._entries

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The modules that run with adapters live on them."""
        entry = self._entries.get(model)
        return [] if entry is None else entry.session.live_layers()

    def leave(self, model: nn.Module) -> None:
        self._leave([model])

    def __len__(self) -> int:
        return sum(bool(entry.session.active) for entry in self._entries.values())

    def _session(self, model: nn.Module, mode: Mode) -> Session:
        parts = parts_of(model)
        entry = self._entries.get(model)
        if entry is not None and entry.mode == mode and [ref() for ref in entry.roots] == _roots(parts):
            return entry.session
        self._leave([model])
        session = Session(
            parts.unet, parts.encoders, mode=mode, cache_bytes=settings.cache_bytes(), base_of=exact_weight
        )
        self._entries[model] = Entry(session, mode, tuple(weakref.ref(root) for root in _roots(parts)))
        return session

    def _leave(self, models: Iterable[nn.Module]) -> None:
        for model in models:
            entry = self._entries.get(model)
            if entry is None:
                continue
            if not is_dropped(model):
                entry.session.deactivate()
            del self._entries[model]


def exact_weight(module: nn.Module, name: str) -> Tensor | None:
    """What is to be changed, where the module holds something else; None where it holds just that."""
    kept = pristine(module, name)
    return kept_half(module, name) if kept is None else kept


def kept_half(module: nn.Module, name: str) -> Tensor | None:
    """With fp8 storage the host may keep a layer's weights in half beside it (`fp16_weight`): the exact ones."""
    kept = getattr(module, f"fp16_{name}", None)
    return kept if isinstance(kept, Tensor) else None


def _roots(parts: Parts) -> list[nn.Module]:
    return [*([] if parts.unet is None else [parts.unet]), *parts.encoders]
