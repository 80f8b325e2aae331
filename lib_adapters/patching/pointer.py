"""The only place that changes what a parameter of a model holds: it points it at another tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib_adapters.ops.modes import ordinary
from lib_adapters.patching.offloaded import values_of

BaseOf = Callable[[nn.Module, str], Tensor | None]  # a more exact form of a weight than the one the module holds


def point(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """None takes a bias away that was only lent to a layer which has none of its own."""
    parameter = module._parameters.get(name)
    if (parameter is None or parameter.is_meta) and (values := values_of(module)) is not None:
        values.put(name, tensor)
        tensor = None if tensor is None else _moved(tensor, torch.device("meta"))
    if tensor is None:
        module._parameters[name] = None
    elif parameter is None or parameter.is_inference():  # torch lets nobody point an inference tensor elsewhere
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        point_at(parameter, tensor)


def exchange(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Put another parameter, or a tensor that depends on one, in the place of a module's parameter."""
    module._parameters[name] = parameter  # type: ignore[assignment]


def point_at(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Point a parameter at this tensor, for all modules that share it."""
    parameter.data = _moved(tensor, parameter.device)  # the tensor may have been offloaded to host memory
    if parameter.requires_grad:
        forget_casts()


def forget_casts() -> None:
    """Autocast keeps the casts of trainable parameters until its block ends, whatever they hold meanwhile."""
    torch.clear_autocast_cache()


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor there. A copy is an ordinary tensor: torch lets no parameter point at an inference one."""
    if tensor.device == device:
        return tensor
    with ordinary():
        return tensor.to(device)


def held(module: nn.Module | None, name: str) -> Tensor | None:
    """Return the tensor of the parameter, or the one it is loaded from if it is offloaded; None if there is none."""
    parameter = None if module is None else module._parameters.get(name)
    if module is None or parameter is None:
        return None
    values = values_of(module) if parameter.is_meta else None
    found = None if values is None else values.get(name)
    return parameter.data if found is None else found.detach()


def zero_bias(module: nn.Module, name: str) -> Tensor:
    """Where a layer has no bias, its pristine bias is zero: one number for each output."""
    weight = held(module, name.removesuffix("bias") + "weight")
    if weight is None:
        raise RuntimeError(f"{type(module).__name__} has no weight to take a bias for")
    return torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
