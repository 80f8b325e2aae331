"""`ExtraNetwork` subclasses for our tags, and their registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_adapters.hosts.webui import settings, webui_modules
from lib_adapters.hosts.webui.extension import Extension
from lib_adapters.prompt.aesthetic_tag import KIND as AESTHETIC_MESSAGE

KINDS = ("lyco", "lora", "hypernet", AESTHETIC_MESSAGE)


class AdapterNetwork:
    """What makes an ExtraNetwork of the host ours. `previous` had the tag before and has it while we leave it."""

    name: str
    runtime: Extension
    previous: Any | None

    def activate(self, p: Any, params_list: Sequence[Any], **_: Any) -> None:
        if not settings.handles_tag(self.name):
            self.runtime.on_tag_released(self.name)
            if self.previous is not None:
                self.previous.activate(p, params_list)
            return
        self.runtime.activate(self.name, p, params_list)

    def deactivate(self, p: Any, **_: Any) -> None:
        """The host does not always call it, so the next `activate` does what is to be done; weights can wait for it."""
        if self.name == AESTHETIC_MESSAGE:
            self.runtime.aesthetics.remove()
        self.runtime.end_job(p)
        if not settings.handles_tag(self.name) and self.previous is not None:
            self.previous.deactivate(p)


def register(runtime: Extension) -> None:
    """Put ours into the registry; safe to repeat, and needed again after the built-in has put its own there."""
    extra_networks = webui_modules.import_module("extra_networks")
    registry = extra_networks.extra_network_registry
    for kind in KINDS:
        there = registry.get(kind)
        if getattr(there, "runtime", None) is not runtime:
            extra_networks.register_extra_network(_network(kind, runtime, there))


def unregister(runtime: Extension) -> None:
    """Give each tag back to whoever had it."""
    registry = webui_modules.import_module("extra_networks").extra_network_registry
    for kind in KINDS:
        there = registry.get(kind)
        if getattr(there, "runtime", None) is runtime:
            if there.previous is None:
                del registry[kind]
            else:
                registry[kind] = there.previous


def _network(kind: str, runtime: Extension, previous: Any | None) -> Any:
    base = webui_modules.import_module("extra_networks").ExtraNetwork
    network = type("AdapterNetwork", (AdapterNetwork, base), {})(kind)
    network.runtime, network.previous = runtime, previous
    return network
