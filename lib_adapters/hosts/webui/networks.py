"""The networks that the host's registry holds for our kinds of tags, and how they get in and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_adapters.hosts.webui import host, settings
from lib_adapters.hosts.webui.runtime import Runtime
from lib_adapters.prompt.aesthetic import KIND as AESTHETIC

KINDS = ("lyco", "lora", "hypernet", AESTHETIC)


class Activation:
    """What makes an ExtraNetwork of the host ours. `previous` had the tag before and has it while we leave it."""

    name: str
    runtime: Runtime
    previous: Any | None

    def activate(self, p: Any, params_list: Sequence[Any], **_: Any) -> None:
        if not settings.handles(self.name):
            self.runtime.left(self.name)
            if self.previous is not None:
                self.previous.activate(p, params_list)
            return
        self.runtime.activate(self.name, p, params_list)

    def deactivate(self, p: Any, **_: Any) -> None:
        """The host does not always call it, so the next `activate` does what is to be done; weights can wait for it."""
        if self.name == AESTHETIC:
            self.runtime.aesthetics.take_off()
        self.runtime.finished(p)
        if not settings.handles(self.name) and self.previous is not None:
            self.previous.deactivate(p)


def register(runtime: Runtime) -> None:
    """Put ours into the registry; safe to repeat, and needed again after the built-in has put its own there."""
    extra_networks = host.module("extra_networks")
    registry = extra_networks.extra_network_registry
    for kind in KINDS:
        there = registry.get(kind)
        if getattr(there, "runtime", None) is not runtime:
            extra_networks.register_extra_network(_network(kind, runtime, there))


def unregister(runtime: Runtime) -> None:
    """Give each tag back to whoever had it."""
    registry = host.module("extra_networks").extra_network_registry
    for kind in KINDS:
        there = registry.get(kind)
        if getattr(there, "runtime", None) is runtime:
            if there.previous is None:
                del registry[kind]
            else:
                registry[kind] = there.previous


def _network(kind: str, runtime: Runtime, previous: Any | None) -> Any:
    base = host.module("extra_networks").ExtraNetwork
    network = type("AdapterNetwork", (Activation, base), {})(kind)
    network.runtime, network.previous = runtime, previous
    return network
