"""PEFT's layers around patched ones: what they have merged into a weight belongs to that weight.

PEFT merges by writing into the weight and takes out again what it has noted. Where it did either while the weight was
ours, the original weight comes back, and with it PEFT's note of what was in that: its adapters act as they should.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.walk import named_modules

MERGED = "merged_adapters"
Weak = weakref.ref[nn.Module]


class Note(NamedTuple):
    """The names of what is merged into a layer: PEFT's own list, and what goes with the original weight."""

    path: str
    inner: nn.Module
    merged: list[str]
    original: tuple[str, ...]

    def reset(self, change: Change) -> None:
        """Give the tuner layer the note that goes with the original weight."""
        before = tuple(self.merged)
        change.back(lambda: self._write(before))
        self._write(self.original)

    def _write(self, names: tuple[str, ...]) -> None:
        self.merged[:] = names


class Tuners:
    """What each tuner layer had merged when the weight inside it was patched."""

    def __init__(self) -> None:
        self._noted: dict[int, tuple[Weak, tuple[str, ...]]] = {}

    def remember(self, roots: Iterable[nn.Module]) -> None:
        """Of the whole model: what is not patched does no harm."""
        self._noted = {id(inner): (weakref.ref(inner), tuple(merged)) for _, inner, merged in _notes(roots)}

    def changed(self, roots: Iterable[nn.Module]) -> list[Note]:
        """Return those inner layers whose tuner has merged or taken out since, and what to set right for each."""
        found = []
        for path, inner, merged in _notes(roots):
            known, noted = self._noted.get(id(inner), (None, ()))
            noted = noted if known is not None and known() is inner else ()
            if tuple(merged) != noted:
                found.append(Note(path, inner, merged, noted))
        return found


def _notes(roots: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module, list[str]]]:
    for path, module in (pair for root in roots for pair in named_modules(root)):
        if isinstance(merged := module.__dict__.get(MERGED), list):
            inner = module._modules.get("base_layer")
            while inner is not None and "base_layer" in inner._modules:
                inner = inner._modules["base_layer"]
            if inner is not None:
                yield path, inner, merged
