"""The only code that changes a model's parameters: it assigns another tensor to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.ops.torch_modes import plain_tensors

BaseOf = Callable[[nn.Module, str], Tensor | None]  # a more exact form of a weight than the one the module holds


def assign(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """None takes a bias away that was only lent to a layer which has none of its own."""
    parameter = module._parameters.get(name)
    if (parameter is None or parameter.is_meta) and (values := module_values(module)) is not None:
        values.put(name, tensor)
        tensor = None if tensor is None else _moved(tensor, torch.device("meta"))
    if tensor is None:
        module._parameters[name] = None
    elif parameter is None or parameter.is_inference():  # torch lets nobody point an inference tensor elsewhere
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        assign_data(parameter, tensor)


def replace_parameter(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Put another parameter, or a tensor that depends on one, in the place of a module's parameter."""
    module._parameters[name] = parameter  # type: ignore[assignment]


def assign_data(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Point a parameter at this tensor, for all modules that share it."""
    parameter.data = _moved(tensor, parameter.device)  # the tensor may have been offloaded to host memory
    if parameter.requires_grad:
        clear_autocast_cache()


def clear_autocast_cache() -> None:
    """Autocast keeps the casts of trainable parameters until its block ends, whatever they hold meanwhile."""
    torch.clear_autocast_cache()


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor there. A copy is an ordinary tensor: torch lets no parameter point at an inference one."""
    if tensor.device == device:
        return tensor
    with plain_tensors():
        return tensor.to(device)


def current_tensor(module: nn.Module | None, name: str) -> Tensor | None:
    """Return the tensor of the parameter, or the one it is loaded from if it is offloaded; None if there is none."""
    parameter = None if module is None else module._parameters.get(name)
    if module is None or parameter is None:
        return None
    values = module_values(module) if parameter.is_meta else None
    found = None if values is None else values.get(name)
    return parameter.data if found is None else found.detach()


def zero_bias(module: nn.Module, name: str) -> Tensor:
    """Where a layer has no bias, its pristine bias is zero: one number for each output."""
    weight = current_tensor(module, name.removesuffix("bias") + "weight")
    if weight is None:
        raise RuntimeError(f"{type(module).__name__} has no weight to take a bias for")
    return torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)


# Access to the weights of offloaded modules, whose parameters are on torch's meta device between forward calls.
#
# accelerate's `cpu_offload` and `disk_offload`, and diffusers' `enable_sequential_cpu_offload`, keep the weights in a
# map and load a layer from it before each forward call. Merged and original weights must be written to that map.


@dataclass(frozen=True)
class ModuleValues:
    """The weights of one module by parameter name: read through `shown`, written into `held`."""

    offered: Mapping[str, Tensor]
    stored: MutableMapping[str, Tensor]
    prefix: str
    devices: MutableMapping[str, Any]  # the device of each parameter once offloading is removed

    def get(self, name: str) -> Tensor | None:
        """Return the tensor from which the parameter is loaded; None if the module has no such parameter."""
        return self.stored.get(self.prefix + name) if self.prefix + name in self.stored else self.offered.get(name)

    def put(self, name: str, tensor: Tensor | None) -> None:
        """Load the parameter from this tensor from now on; None removes the parameter."""
        if tensor is None:
            self.stored.pop(self.prefix + name, None)
            self.devices.pop(name, None)
            return
        before = self.get(name)
        self.devices.setdefault(name, next(iter(self.devices.values()), "cpu"))
        self.stored[self.prefix + name] = tensor.to("cpu" if before is None else before.device)


def module_values(module: nn.Module) -> ModuleValues | None:
    """Return the map from which an offloaded module is loaded; None if the module is not offloaded."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (shown := getattr(one, "weights_map", None)) is not None and getattr(one, "offload", False):
            return _values(shown, getattr(one, "original_devices", {}))
    return None


def _values(shown: Any, devices: MutableMapping[str, Any]) -> ModuleValues | None:
    held, prefix = shown, ""
    while hasattr(held, "dataset") and hasattr(held, "prefix"):  # accelerate's PrefixedDataset, a view of a larger map
        held, prefix = held.dataset, f"{held.prefix}{prefix}"
    held = getattr(held, "state_dict", held)  # an OffloadedWeightsLoader prefers these to its files
    return ModuleValues(shown, held, prefix, devices) if isinstance(held, MutableMapping) else None
