"""What is wanted is put on the host's models: alone, or beside the built-in Lora where that writes the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lib_adapters.hosts.webui import host, settings, wanted
from lib_adapters.hosts.webui.builtin import Builtin
from lib_adapters.hosts.webui.lifecycle import Sessions
from lib_adapters.hosts.webui.model import parts_of
from lib_adapters.hosts.webui.rounds import Round
from lib_adapters.session import Report, Session


class Applying:
    def __init__(self) -> None:
        self.report = Report()
        self._sessions = Sessions()
        self._builtin = Builtin()
        self._shared = False  # does the built-in write into the same weights?

    def share(self, kinds: Sequence[str], data: wanted.Data | None) -> None:
        """Will the built-in write into the same weights for this picture?"""
        if "lora" in kinds or host.builtin_networks() is None:
            self._shared = False
            return
        default = host.option("sd_lora", settings.NOTHING)
        self._shared = bool((data or {}).get("lora")) or default != settings.NOTHING

    def put_on(self, model: nn.Module, now: Round) -> Report:
        """Exactly these, and nothing on any other model."""
        self.report = self._put_on(model, now)
        return self.report

    def _put_on(self, model: nn.Module, now: Round) -> Report:
        before = self._sessions.mode(model)
        if before == "live" and not self._shared:
            self._sessions.leave(model)
        if self._shared:
            report = self._sessions.activate(model, now.requests, "live", now.moment)
            self._builtin.write_first(self._sessions.layers(model))
            return report
        if now.requests or before or settings.handles_lora():
            parts = parts_of(model)
            self._builtin.stand_down([root for root in (parts.unet, *parts.encoders) if root is not None])
        return self._sessions.activate(model, now.requests, "merged", now.moment)

    def session(self, model: nn.Module) -> Session | None:
        return self._sessions.session(model)

    def sure(self, model: nn.Module, now: Round) -> Session | None:
        """The same, with all that is wanted: it is put on now where the host brought this model in between."""
        if not self._sessions.is_on(model):
            self.put_on(model, now)
        return self._sessions.session(model)

    def take_off(self) -> None:
        """Every model gets its own weights back."""
        self._sessions.restore()
        self.report = Report()

    def leave(self) -> None:
        """And the built-in is as if we had never been there."""
        self.take_off()
        self._builtin.take_off()


def others_loaded(model: nn.Module) -> list[nn.Module]:
    """What else the host has in memory: it may go on with one of these without telling."""
    loaded: Any = getattr(host.module("sd_models").model_data, "loaded_sd_models", ())
    return [one for one in loaded if isinstance(one, nn.Module) and one is not model]
