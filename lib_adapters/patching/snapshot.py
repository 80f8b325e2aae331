"""The remembered state of one patched parameter, and its recognition after the host has moved it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib_adapters.patching.checksum import samples_match, version_of
from lib_adapters.patching.layers import ParamRef
from lib_adapters.patching.parameters import assign_data
from lib_adapters.patching.patch import PatchKey


@dataclass(frozen=True)
class ParameterSnapshot:
    """`original` is what the parameter goes back to; `pointer` and `samples` are of the tensor that we put there."""

    ref: ParamRef
    original: Tensor | None  # None: the layer had no bias
    signature: tuple[PatchKey, ...]
    parameter: weakref.ref[nn.Parameter]
    data_ptr: int
    sample_values: Tensor
    version: int  # of the parameter: a write into any of its elements raises it

    def is_in_place(self) -> bool:
        """True if the Parameter, or the stored tensor of one on `meta`, still points to the merged weight."""
        parameter = self.ref.parameter()
        if parameter is not None and not parameter.is_meta:  # asked for each parameter before each run
            return parameter is self.parameter() and parameter.data_ptr() == self.data_ptr
        tensor = self.ref.tensor()
        return tensor is not None and not tensor.is_meta and tensor.data_ptr() == self.data_ptr

    def is_live(self) -> bool:
        """The same, or moved by the host with our values in it."""
        return self.is_in_place() or self.holds_our_values()

    def holds_our_values(self) -> bool:
        """Moved or cast by the host, but our values; a host drops a model by sending it to `meta`."""
        tensor = self.ref.tensor()
        return tensor is not None and not tensor.is_meta and samples_match(tensor, self.sample_values)

    def is_written(self) -> bool:
        """True if it is where we put it, and other code wrote into it."""
        parameter = self.ref.parameter()
        counted = self.ref.is_loaded() and parameter is not None and version_of(parameter) != self.version
        return self.is_in_place() and (counted or not self.holds_our_values())

    def current(self) -> ParameterSnapshot:
        """Return the record with the parameter and address to which the host has moved it."""
        parameter, tensor = self.ref.parameter(), self.ref.tensor()
        assert parameter is not None
        assert tensor is not None
        version = self.version if parameter is self.parameter() else version_of(parameter)
        return replace(self, parameter=weakref.ref(parameter), data_ptr=tensor.data_ptr(), version=version)

    def retrieve(self) -> None:
        """Restore the Parameter object itself, because another module may hold it now (an unwrapped layer)."""
        parameter = self.parameter()
        if parameter is None or parameter.is_inference():
            return
        if parameter.data_ptr() == self.data_ptr and not parameter.is_meta:
            original = torch.zeros_like(parameter) if self.original is None else self.original
            assign_data(parameter, original.to(parameter.dtype))  # an added bias becomes zero

    def is_derived(self) -> nn.Module | nn.Parameter | None:
        """Return what replaced the parameter, if it must derive from merged values: quantised, or not a parameter."""
        root = self.ref.root()
        try:
            module = None if root is None else root.get_submodule(self.ref.path)
        except AttributeError:  # the layer is gone
            return None
        parameter = None if module is None else module._parameters.get(self.ref.name)
        if parameter is None:
            gone = self.original is not None and self.parameter() is None
            return module if gone and module is not self.ref.module() else None
        plain = parameter.is_floating_point() and type(parameter.data) is Tensor
        return None if plain else parameter

    def original_on_device(self) -> Tensor | None:
        """The pristine tensor where, and in the dtype in which, the host keeps the parameter now."""
        tensor = self.ref.tensor()
        if self.original is None or tensor is None:
            return self.original
        return self.original.to(tensor.device, tensor.dtype)


class Swap(NamedTuple):
    """Point one parameter somewhere else; `record` is None when it goes back to what it was."""

    ref: ParamRef
    tensor: Tensor | None
    original: Tensor | None
    signature: tuple[PatchKey, ...] | None
