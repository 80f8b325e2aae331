"""Temporary trainable float32 copies of a module's parameters; the module's own are restored afterwards.

The module's own parameters are taken out of it and put in again, the same objects: nothing is ever written into them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

ParamLocation = tuple[nn.Module, str]
T = TypeVar("T")


def with_trainable_copies(
    root: nn.Module, selects: Callable[[str], bool], train: Callable[[list[nn.Parameter]], T]
) -> T:
    """`work` gets trainable copies of the parameters whose names are `wanted`; the others are only made float32.

    No context manager: of one that is interrupted as it opens or closes, Python runs the end whenever it likes.
    """
    parameters = [(_place(root, name), value) for name, value in root.named_parameters(remove_duplicate=False)]
    buffers = [(_place(root, name), value) for name, value in root.named_buffers(remove_duplicate=False)]
    names = [name for name, _ in root.named_parameters(remove_duplicate=False)]
    copies: dict[int, nn.Parameter] = {}  # a tensor that two layers share stays one
    with torch.inference_mode(False), torch.no_grad():
        for name, (_, value) in zip(names, parameters, strict=True):
            if value.is_floating_point() and id(value) not in copies:
                copies[id(value)] = nn.Parameter(_float(value), requires_grad=selects(name))
        replaced = [(place, _plain(value)) for place, value in buffers]
    try:
        for (module, tensor_name), value in parameters:
            module._parameters[tensor_name] = copies.get(id(value), value)
        for (module, tensor_name), copy in replaced:
            module._buffers[tensor_name] = copy
        return train([copy for copy in copies.values() if copy.requires_grad])
    finally:
        try:
            _restore(parameters, buffers)
        except BaseException:  # once more: nobody else knows what these were
            _restore(parameters, buffers)
            raise


def _restore(
    parameters: Sequence[tuple[ParamLocation, nn.Parameter]], buffers: Sequence[tuple[ParamLocation, Tensor]]
) -> None:
    for (module, tensor_name), value in parameters:
        module._parameters[tensor_name] = value
    for (module, tensor_name), buffer in buffers:
        module._buffers[tensor_name] = buffer


def _place(root: nn.Module, name: str) -> ParamLocation:
    path, _, tensor_name = name.rpartition(".")
    return root.get_submodule(path), tensor_name


def _float(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32, copy=True)


def _plain(buffer: Tensor) -> Tensor:
    """Autograd cannot keep an inference tensor, and a mask of halves does not go with float32 scores."""
    return _float(buffer) if buffer.is_floating_point() else buffer.clone() if buffer.is_inference() else buffer
