"""One patched parameter: what it was, and how to know our tensor again after the host has moved it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib_adapters.patching.checksum import same_values, version_of
from lib_adapters.patching.patch import PatchKey
from lib_adapters.patching.pointer import point_at
from lib_adapters.patching.targets import Slot


@dataclass(frozen=True)
class Record:
    """`pristine` is what the parameter goes back to; `pointer` and `samples` are of the tensor that we put there."""

    slot: Slot
    pristine: Tensor | None  # None: the layer had no bias
    signature: tuple[PatchKey, ...]
    parameter: weakref.ref[nn.Parameter]
    pointer: int
    samples: Tensor
    version: int  # of the parameter: a write into any of its elements raises it

    def in_place(self) -> bool:
        """True if the Parameter, or the stored tensor of one on `meta`, still points to the merged weight."""
        parameter = self.slot.parameter()
        if parameter is not None and not parameter.is_meta:  # asked for each parameter before each run
            return parameter is self.parameter() and parameter.data_ptr() == self.pointer
        tensor = self.slot.tensor()
        return tensor is not None and not tensor.is_meta and tensor.data_ptr() == self.pointer

    def stands(self) -> bool:
        """The same, or moved by the host with our values in it."""
        return self.in_place() or self.is_ours()

    def is_ours(self) -> bool:
        """Moved or cast by the host, but our values; a host drops a model by sending it to `meta`."""
        tensor = self.slot.tensor()
        return tensor is not None and not tensor.is_meta and same_values(tensor, self.samples)

    def is_written(self) -> bool:
        """True if it is where we put it, and other code wrote into it."""
        parameter = self.slot.parameter()
        counted = self.slot.is_loaded() and parameter is not None and version_of(parameter) != self.version
        return self.in_place() and (counted or not self.is_ours())

    def found(self) -> Record:
        """Return the record with the parameter and address to which the host has moved it."""
        parameter, tensor = self.slot.parameter(), self.slot.tensor()
        assert parameter is not None
        assert tensor is not None
        version = self.version if parameter is self.parameter() else version_of(parameter)
        return replace(self, parameter=weakref.ref(parameter), pointer=tensor.data_ptr(), version=version)

    def retrieve(self) -> None:
        """Restore the Parameter object itself, because another module may hold it now (an unwrapped layer)."""
        parameter = self.parameter()
        if parameter is None or parameter.is_inference():
            return
        if parameter.data_ptr() == self.pointer and not parameter.is_meta:
            original = torch.zeros_like(parameter) if self.pristine is None else self.pristine
            point_at(parameter, original.to(parameter.dtype))  # an added bias becomes zero

    def derived(self) -> nn.Module | nn.Parameter | None:
        """Return what replaced the parameter, if it must derive from merged values: quantised, or not a parameter."""
        root = self.slot.root()
        try:
            module = None if root is None else root.get_submodule(self.slot.path)
        except AttributeError:  # the layer is gone
            return None
        parameter = None if module is None else module._parameters.get(self.slot.name)
        if parameter is None:
            gone = self.pristine is not None and self.parameter() is None
            return module if gone and module is not self.slot.module() else None
        plain = parameter.is_floating_point() and type(parameter.data) is Tensor
        return None if plain else parameter

    def home(self) -> Tensor | None:
        """The pristine tensor where, and in the dtype in which, the host keeps the parameter now."""
        tensor = self.slot.tensor()
        if self.pristine is None or tensor is None:
            return self.pristine
        return self.pristine.to(tensor.device, tensor.dtype)


class Step(NamedTuple):
    """Point one parameter somewhere else; `record` is None when it goes back to what it was."""

    slot: Slot
    tensor: Tensor | None
    pristine: Tensor | None
    signature: tuple[PatchKey, ...] | None
