"""Applies adapters by replaced forward methods; the weights stay unchanged.

Used for strengths that change during sampling, for quantised weights, and where other code writes the same weights.
The layer's own `forward` becomes a bound method of a `PatchedForward`, which looks the class's forward up at call time:
a host that patches classes later is not bypassed, and a deep copy of the model is bound to the copy.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lib_adapters.patching.parameters import BaseOf
from lib_adapters.patching.patch import Key, ParamPatches
from lib_adapters.patching.patched_forward import PatchedForward
from lib_adapters.patching.transaction import Transaction
from lib_adapters.patching.weight_substitution import BufferPool

Place = tuple[weakref.ref[nn.Module], PatchedForward]
Layers = Mapping[int, Place]


class ForwardPatcher:
    """Which modules run a PatchedForward now. Weak: an old checkpoint can be freed."""

    def __init__(self, base_of: BaseOf | None = None) -> None:
        self._base_of = base_of
        self._buffers = BufferPool()
        self._layers: dict[int, Place] = {}

    def prepare(self, targets: Mapping[Key, ParamPatches]) -> Callable[[Transaction], None]:
        """All that may run out of memory; what comes back only exchanges the layers' forwards."""
        wanted = _grouped(targets)
        fresh = {
            key: (weakref.ref(module), self._layer(key, module, group))
            for key, (module, group) in wanted.items()
            if not self._has(key, group)
        }
        old = {key: layer for key, layer in self._layers.items() if key in fresh or key not in wanted}
        return lambda transaction: self._replace(old, fresh, transaction)

    def _replace(self, old: Layers, fresh: Layers, transaction: Transaction) -> None:
        before = self._layers
        after = {**{key: layer for key, layer in before.items() if key not in old}, **fresh}
        transaction.on_rollback(lambda: self._swap(fresh, old, before))
        self._swap(old, fresh, after)
        if not after:
            transaction.on_commit(self._buffers.clear)

    def _swap(self, old: Layers, new: Layers, after: dict[int, Place]) -> None:
        _swap(old, new)
        self._layers = after

    def _layer(self, key: int, module: nn.Module, group: list[ParamPatches]) -> PatchedForward:
        return PatchedForward(
            module, group, _foreign_forward(module, self._layers.get(key)), self._base_of, self._buffers
        )

    def restore(self) -> None:
        """Every layer gets its own forward back."""
        with Transaction() as transaction:
            self.prepare({})(transaction)

    def is_installed(self) -> bool:
        """Do all of them still run ours, made of the weights that they have now?"""
        return all(layer.base_weights.are_unchanged and _is_on(ref, layer) for ref, layer in self._layers.values())

    def precompute(self) -> None:
        """What was moved is still what our layers were made for."""
        for _, layer in self._layers.values():
            layer.base_weights.refresh()

    @property
    def rows_unresolved(self) -> bool:
        """Did one run whose rows could not be told apart?"""
        return any(layer.rows_unresolved for _, layer in self._layers.values())

    def start(self) -> None:
        """A picture begins, and no run of it is lost yet."""
        for _, layer in self._layers.values():
            layer.rows_unresolved = False

    def modules(self) -> list[nn.Module]:
        """Those that run a PatchedForward, as far as they live."""
        return [module for ref, _ in self._layers.values() if (module := ref()) is not None]

    def __len__(self) -> int:
        return len(self._layers)

    def _has(self, key: int, group: list[ParamPatches]) -> bool:
        if key not in self._layers:
            return False
        ref, layer = self._layers[key]
        return _is_on(ref, layer) and layer.base_weights.are_unchanged and layer.matches(group)


def _grouped(targets: Mapping[Key, ParamPatches]) -> dict[int, tuple[nn.Module, list[ParamPatches]]]:
    """Targets by the module whose forward reads them."""
    groups: dict[int, tuple[nn.Module, list[ParamPatches]]] = {}
    for target in targets.values():
        if (module := target.ref.reader()) is not None:
            groups.setdefault(id(module), (module, []))[1].append(target)
    return groups


def _swap(old: Layers, new: Layers) -> None:
    for ref, layer in old.values():
        if (module := ref()) is not None:
            _take_off(module, layer)
    for ref, layer in new.values():
        if (module := ref()) is not None:
            layer.is_disabled = False
            module.__dict__["forward"] = types.MethodType(layer, module)


def _take_off(module: nn.Module, layer: PatchedForward) -> None:
    layer.is_disabled = True  # somebody may have wrapped our forward in his own: then it only passes on
    if not _runs(module, layer):
        return
    if layer.original_forward is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = layer.original_forward


def _is_on(ref: weakref.ref[nn.Module], layer: PatchedForward) -> bool:
    return (module := ref()) is not None and _runs(module, layer)


def _runs(module: nn.Module, layer: PatchedForward) -> bool:
    return getattr(module.__dict__.get("forward"), "__func__", None) is layer


def _foreign_forward(module: nn.Module, ours: Place | None) -> Any:
    """An instance-level forward that somebody else had put there before us."""
    if ours is not None and _runs(module, ours[1]):
        return ours[1].original_forward
    return module.__dict__.get("forward")
