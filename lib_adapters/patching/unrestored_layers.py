"""Layers that cannot be restored because other code used their merged weights; reported while they exist."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from lib_adapters.patching.checksum import version_of

COPIED = (
    "Other code copied merged weights into other layers while adapters were active; these keep the adapters: {layers}. "
    "Reload the model to remove them."
)
WRITTEN = (
    "Other code changed merged weights; its changes were lost when the original weights were restored: {layers}. "
    "Deactivate the adapters before you train the model or merge into it."
)
UNMERGED = "PEFT merged or unmerged its adapters while ours were active; this was undone: {layers}."


@dataclass(frozen=True)
class _Unrestored:
    reason: str
    where: Callable[[], nn.Module | nn.Parameter | None]  # a weak reference
    version: int

    @property
    def is_current(self) -> bool:
        """False once the layer was freed, or other weights were loaded into it."""
        where = self.where()
        return where is not None and _version(where) == self.version


class UnrestoredLayers:
    """The layers of one model that cannot be restored, each with its reason."""

    def __init__(self) -> None:
        self._layers: dict[str, _Unrestored] = {}

    def add(self, path: str, where: nn.Module | nn.Parameter, reason: str) -> None:
        """Record a layer; `reason` is a sentence with the placeholder `{layers}`."""
        self._layers[path] = _Unrestored(reason, weakref.ref(where), _version(where))

    def inherit(self, other: UnrestoredLayers) -> None:
        """Add the layers recorded by the Session that had the model before."""
        self._layers = {**other._layers, **self._layers}

    def messages(self) -> list[str]:
        """Return one sentence for each reason that still applies."""
        self._layers = {path: one for path, one in self._layers.items() if one.is_current}
        by_reason: dict[str, list[str]] = {}
        for path, one in self._layers.items():
            by_reason.setdefault(one.reason, []).append(path)
        return [with_layers(reason, paths) for reason, paths in by_reason.items()]


def with_layers(reason: str, paths: Sequence[str]) -> str:
    """Return the sentence with its placeholder replaced by the number of layers and the first one's path."""
    return reason.format(layers=paths[0] if len(paths) == 1 else f"{len(paths)} layers, for example {paths[0]}")


def _version(where: nn.Module | nn.Parameter) -> int:
    return version_of(where) if isinstance(where, nn.Parameter) else 0
