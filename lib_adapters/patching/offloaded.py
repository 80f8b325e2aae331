"""Where the values of a parameter are while the parameter itself waits on torch's meta device.

accelerate's `cpu_offload`, `disk_offload` and diffusers' `enable_sequential_cpu_offload` keep them in a map of their
own, and load a layer from it for each of its runs: what is to act, or to come back, must stand in that map.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Values:
    """The values of one module by the names of its parameters: read through `shown`, written into `held`."""

    shown: Mapping[str, Tensor]
    held: MutableMapping[str, Tensor]
    prefix: str
    devices: MutableMapping[str, Any]  # where each parameter goes when the offloading ends

    def get(self, name: str) -> Tensor | None:
        """Return the tensor that the module is loaded from; None where it has no such parameter."""
        return self.held.get(self.prefix + name) if self.prefix + name in self.held else self.shown.get(name)

    def put(self, name: str, tensor: Tensor | None) -> None:
        """Have the module loaded from this tensor; None takes the entry away."""
        if tensor is None:
            self.held.pop(self.prefix + name, None)
            self.devices.pop(name, None)
            return
        before = self.get(name)
        self.devices.setdefault(name, next(iter(self.devices.values()), "cpu"))
        self.held[self.prefix + name] = tensor.to("cpu" if before is None else before.device)


def values_of(module: nn.Module) -> Values | None:
    """Return the map that the module is loaded from before each of its runs; None where it has its own values."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (shown := getattr(one, "weights_map", None)) is not None and getattr(one, "offload", False):
            return _values(shown, getattr(one, "original_devices", {}))
    return None


def _values(shown: Any, devices: MutableMapping[str, Any]) -> Values | None:
    held, prefix = shown, ""
    while hasattr(held, "dataset") and hasattr(held, "prefix"):  # a view of a larger map
        held, prefix = held.dataset, f"{held.prefix}{prefix}"
    held = getattr(held, "state_dict", held)  # values of this one go before those in its files
    return Values(shown, held, prefix, devices) if isinstance(held, MutableMapping) else None
