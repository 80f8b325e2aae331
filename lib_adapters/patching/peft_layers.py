"""PEFT layers that wrap patched layers: keeps PEFT's list of merged adapters consistent with the weight.

PEFT merges in place and unmerges the adapters in its `merged_adapters` list. If it does either while the weight is
merged by us, the original weight is restored together with the list that belongs to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from lib_adapters.patching.named_modules import named_modules
from lib_adapters.patching.transaction import Transaction

MERGED = "merged_adapters"
Weak = weakref.ref[nn.Module]


class MergeState(NamedTuple):
    """The adapters merged into one layer: PEFT's live list, and the names that belong to the original weight."""

    path: str
    inner: nn.Module
    merged: list[str]
    original: tuple[str, ...]

    def reset(self, transaction: Transaction) -> None:
        """Set PEFT's list to the names that belong to the original weight."""
        before = tuple(self.merged)
        transaction.on_rollback(lambda: self._write(before))
        self._write(self.original)

    def _write(self, names: tuple[str, ...]) -> None:
        self.merged[:] = names


class PeftLayers:
    """Remembers what each PEFT layer had merged when the weight inside it was patched."""

    def __init__(self) -> None:
        self._merge_states: dict[int, tuple[Weak, tuple[str, ...]]] = {}

    def record(self, components: Iterable[nn.Module]) -> None:
        """Record the merged adapters of all PEFT layers, also of those that are not patched."""
        self._merge_states = {
            id(inner): (weakref.ref(inner), tuple(merged)) for _, inner, merged in _merge_states(components)
        }

    def changed(self, components: Iterable[nn.Module]) -> list[MergeState]:
        """Return the layers in which PEFT has merged or unmerged since then."""
        found = []
        for path, inner, merged in _merge_states(components):
            known, noted = self._merge_states.get(id(inner), (None, ()))
            noted = noted if known is not None and known() is inner else ()
            if tuple(merged) != noted:
                found.append(MergeState(path, inner, merged, noted))
        return found


def _merge_states(components: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module, list[str]]]:
    for path, module in (pair for root in components for pair in named_modules(root)):
        if isinstance(merged := module.__dict__.get(MERGED), list):
            inner = module._modules.get("base_layer")
            while inner is not None and "base_layer" in inner._modules:
                inner = inner._modules["base_layer"]
            if inner is not None:
                yield path, inner, merged
