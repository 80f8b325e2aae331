"""The live way: the weights stay as they are, the layer adds the delta while it runs.

For strengths that change during sampling, for quantised weights, and where somebody else writes the same weights.
The layer's own `forward` becomes a bound method of a `LiveLayer`; it calls the class's forward when it is called, so
a host that patches classes later is not bypassed, and a deep copy of the model is bound to the copy.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lib_adapters.patching.change import Change
from lib_adapters.patching.live_layer import LiveLayer
from lib_adapters.patching.patch import Key, Target
from lib_adapters.patching.pointer import BaseOf
from lib_adapters.patching.substitute import Scratch

Place = tuple[weakref.ref[nn.Module], LiveLayer]
Layers = Mapping[int, Place]


class Live:
    """Which modules run a LiveLayer now. Weak: an old checkpoint can be freed."""

    def __init__(self, base_of: BaseOf | None = None) -> None:
        self._base_of = base_of
        self._scratch = Scratch()
        self._layers: dict[int, Place] = {}

    def prepare(self, targets: Mapping[Key, Target]) -> Callable[[Change], None]:
        """All that may run out of memory; what comes back only exchanges the layers' forwards."""
        wanted = _grouped(targets)
        fresh = {
            key: (weakref.ref(module), self._layer(key, module, group))
            for key, (module, group) in wanted.items()
            if not self._has(key, group)
        }
        old = {key: layer for key, layer in self._layers.items() if key in fresh or key not in wanted}
        return lambda change: self._exchange(old, fresh, change)

    def _exchange(self, old: Layers, fresh: Layers, change: Change) -> None:
        before = self._layers
        after = {**{key: layer for key, layer in before.items() if key not in old}, **fresh}
        change.back(lambda: self._swap(fresh, old, before))
        self._swap(old, fresh, after)
        if not after:
            change.then(self._scratch.clear)

    def _swap(self, old: Layers, new: Layers, after: dict[int, Place]) -> None:
        _swap(old, new)
        self._layers = after

    def _layer(self, key: int, module: nn.Module, group: list[Target]) -> LiveLayer:
        return LiveLayer(module, group, _foreign_forward(module, self._layers.get(key)), self._base_of, self._scratch)

    def restore(self) -> None:
        """Every layer gets its own forward back."""
        with Change() as change:
            self.prepare({})(change)

    def in_place(self) -> bool:
        """Do all of them still run ours, made of the weights that they have now?"""
        return all(layer.bases.holds and _is_on(ref, layer) for ref, layer in self._layers.values())

    def settle(self) -> None:
        """What was moved is still what our layers were made for."""
        for _, layer in self._layers.values():
            layer.bases.settle()

    @property
    def lost(self) -> bool:
        """Did one run whose rows could not be told apart?"""
        return any(layer.lost for _, layer in self._layers.values())

    def begin(self) -> None:
        """A picture begins, and no run of it is lost yet."""
        for _, layer in self._layers.values():
            layer.lost = False

    def modules(self) -> list[nn.Module]:
        """Those that run a LiveLayer, as far as they live."""
        return [module for ref, _ in self._layers.values() if (module := ref()) is not None]

    def __len__(self) -> int:
        return len(self._layers)

    def _has(self, key: int, group: list[Target]) -> bool:
        if key not in self._layers:
            return False
        ref, layer = self._layers[key]
        return _is_on(ref, layer) and layer.bases.holds and layer.is_of(group)


def _grouped(targets: Mapping[Key, Target]) -> dict[int, tuple[nn.Module, list[Target]]]:
    """Targets by the module whose forward reads them."""
    groups: dict[int, tuple[nn.Module, list[Target]]] = {}
    for target in targets.values():
        if (module := target.slot.caller()) is not None:
            groups.setdefault(id(module), (module, []))[1].append(target)
    return groups


def _swap(old: Layers, new: Layers) -> None:
    for ref, layer in old.values():
        if (module := ref()) is not None:
            _take_off(module, layer)
    for ref, layer in new.values():
        if (module := ref()) is not None:
            layer.retired = False
            module.__dict__["forward"] = types.MethodType(layer, module)


def _take_off(module: nn.Module, layer: LiveLayer) -> None:
    layer.retired = True  # somebody may have wrapped our forward in his own: then it only passes on
    if not _runs(module, layer):
        return
    if layer.before is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = layer.before


def _is_on(ref: weakref.ref[nn.Module], layer: LiveLayer) -> bool:
    return (module := ref()) is not None and _runs(module, layer)


def _runs(module: nn.Module, layer: LiveLayer) -> bool:
    return getattr(module.__dict__.get("forward"), "__func__", None) is layer


def _foreign_forward(module: nn.Module, ours: Place | None) -> Any:
    """An instance-level forward that somebody else had put there before us."""
    if ours is not None and _runs(module, ours[1]):
        return ours[1].before
    return module.__dict__.get("forward")
