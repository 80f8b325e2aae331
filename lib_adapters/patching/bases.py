"""The weights that something was computed from and is remembered with: are they still the same?"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from lib_adapters.patching.checksum import same_values, samples, version_of
from lib_adapters.patching.targets import Slot


@dataclass(frozen=True)
class _Base:
    """One parameter as it was when it was read."""

    slot: Slot
    parameter: weakref.ref[nn.Parameter]
    pointer: int
    version: int
    samples: Tensor

    @property
    def holds(self) -> bool:
        now = self.slot.parameter()
        if now is not None and not now.is_meta:  # asked for each parameter before each run
            return now is self.parameter() and now.data_ptr() == self.pointer and version_of(now) == self.version
        tensor = self.slot.tensor()
        return tensor is not None and tensor.data_ptr() == self.pointer

    @property
    def was_moved(self) -> bool:
        """Other memory, but our values: a host short of memory does so before every run."""
        now = self.slot.tensor()
        return now is not None and not now.is_meta and same_values(now, self.samples)


class Bases:
    """Parameters as they were when something was made of them."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._all = _seen(slots)

    @property
    def holds(self) -> bool:
        """Is each the same Parameter, in the same memory, and was nothing written into it?"""
        return all(base.holds for base in self._all)

    def settle(self) -> None:
        """Compare them with the model: what was only moved is the same."""
        if not self.holds and all(base.holds or base.was_moved for base in self._all):
            self._all = _seen(base.slot for base in self._all)


def _seen(slots: Iterable[Slot]) -> list[_Base]:
    found = [(slot, slot.parameter(), slot.tensor()) for slot in slots]
    there = [(slot, p, tensor) for slot, p, tensor in found if p is not None and tensor is not None]
    marks = samples([tensor for _, _, tensor in there])
    return [
        _Base(slot, weakref.ref(parameter), tensor.data_ptr(), version_of(parameter), mark)
        for (slot, parameter, tensor), mark in zip(there, marks, strict=True)
    ]
