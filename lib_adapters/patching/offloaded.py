"""Access to the weights of offloaded modules, whose parameters are on torch's meta device between forward calls.

accelerate's `cpu_offload` and `disk_offload`, and diffusers' `enable_sequential_cpu_offload`, keep the weights in a
map and load a layer from it before each forward call. Merged and original weights must be written to that map.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Values:
    """The weights of one module by parameter name: read through `shown`, written into `held`."""

    shown: Mapping[str, Tensor]
    held: MutableMapping[str, Tensor]
    prefix: str
    devices: MutableMapping[str, Any]  # the device of each parameter once offloading is removed

    def get(self, name: str) -> Tensor | None:
        """Return the tensor from which the parameter is loaded; None if the module has no such parameter."""
        return self.held.get(self.prefix + name) if self.prefix + name in self.held else self.shown.get(name)

    def put(self, name: str, tensor: Tensor | None) -> None:
        """Load the parameter from this tensor from now on; None removes the parameter."""
        if tensor is None:
            self.held.pop(self.prefix + name, None)
            self.devices.pop(name, None)
            return
        before = self.get(name)
        self.devices.setdefault(name, next(iter(self.devices.values()), "cpu"))
        self.held[self.prefix + name] = tensor.to("cpu" if before is None else before.device)


def values_of(module: nn.Module) -> Values | None:
    """Return the map from which an offloaded module is loaded; None if the module is not offloaded."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (shown := getattr(one, "weights_map", None)) is not None and getattr(one, "offload", False):
            return _values(shown, getattr(one, "original_devices", {}))
    return None


def _values(shown: Any, devices: MutableMapping[str, Any]) -> Values | None:
    held, prefix = shown, ""
    while hasattr(held, "dataset") and hasattr(held, "prefix"):  # accelerate's PrefixedDataset, a view of a larger map
        held, prefix = held.dataset, f"{held.prefix}{prefix}"
    held = getattr(held, "state_dict", held)  # an OffloadedWeightsLoader prefers these to its files
    return Values(shown, held, prefix, devices) if isinstance(held, MutableMapping) else None
