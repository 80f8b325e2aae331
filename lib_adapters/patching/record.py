"""One patched parameter: what it was, and how to know our tensor again after the host has moved it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from lib_adapters.patching.checksum import same_values
from lib_adapters.patching.patch import PatchKey
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

    def in_place(self) -> bool:
        """Is it the same Parameter, and points it where we put it?"""
        parameter = self.slot.parameter()
        return parameter is not None and parameter is self.parameter() and parameter.data_ptr() == self.pointer

    def stands(self) -> bool:
        """The same, or moved by the host with our values in it."""
        return self.in_place() or self.is_ours(self.slot.parameter())

    def is_ours(self, parameter: nn.Parameter | None) -> bool:
        """Moved or cast by the host, but our values; a host drops a model by sending it to `meta`."""
        return parameter is not None and not parameter.is_meta and same_values(parameter.data, self.samples)

    def home(self) -> Tensor | None:
        """The pristine tensor where, and in the dtype in which, the host keeps the parameter now."""
        parameter = self.slot.parameter()
        if self.pristine is None or parameter is None:
            return self.pristine
        return self.pristine.to(parameter.device, parameter.dtype)


class Step(NamedTuple):
    """Point one parameter somewhere else; `record` is None when it goes back to what it was."""

    slot: Slot
    tensor: Tensor | None
    pristine: Tensor | None
    signature: tuple[PatchKey, ...] | None
