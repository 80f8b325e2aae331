"""What other code made of merged weights and nobody can take out again: named until those weights are gone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from lib_adapters.patching.checksum import version_of

COPIED = (
    "Other code made layers of merged weights while adapters were active; they keep the adapters: {layers}. Load the "
    "model again to be rid of them."
)
WRITTEN = (
    "Other code wrote into merged weights; that is lost, for the original weights came back: {layers}. Deactivate "
    "before the model is trained or merged."
)
UNMERGED = "PEFT merged into weights, or took out of them, while adapters were active; that is undone: {layers}."


@dataclass(frozen=True)
class _Loss:
    reason: str
    where: Callable[[], nn.Module | nn.Parameter | None]  # weak
    version: int

    @property
    def is_there(self) -> bool:
        """False once it is gone, or other weights were loaded into it."""
        where = self.where()
        return where is not None and _version(where) == self.version


class Losses:
    """By layer, for one model."""

    def __init__(self) -> None:
        self._all: dict[str, _Loss] = {}

    def add(self, path: str, where: nn.Module | nn.Parameter, reason: str) -> None:
        """`reason` is a sentence with a place for the layers."""
        self._all[path] = _Loss(reason, weakref.ref(where), _version(where))

    def inherit(self, other: Losses) -> None:
        """The model is taken over with what it has lost."""
        self._all = {**other._all, **self._all}

    def sentences(self) -> list[str]:
        """Return one for each reason, about what is still so."""
        self._all = {path: loss for path, loss in self._all.items() if loss.is_there}
        by_reason: dict[str, list[str]] = {}
        for path, loss in self._all.items():
            by_reason.setdefault(loss.reason, []).append(path)
        return [one_of(reason, paths) for reason, paths in by_reason.items()]


def one_of(reason: str, paths: Sequence[str]) -> str:
    """Return the sentence with the number of layers and the first of them."""
    return reason.format(layers=paths[0] if len(paths) == 1 else f"{len(paths)} layers, for example {paths[0]}")


def _version(where: nn.Module | nn.Parameter) -> int:
    return version_of(where) if isinstance(where, nn.Parameter) else 0
