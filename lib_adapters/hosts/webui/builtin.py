"""The built-in Lora as a second writer of the same weights.

It is lazy: its delta stays in a layer after its last picture until that layer's next forward, and its backup, once
taken, is kept. So a pristine tensor may be taken only after it has restored with its own function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.hosts.webui import host
from lib_adapters.patching.hooks import Hooks

_PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


class Builtin:
    """Asks the built-in to write or to restore; has one hook per shared layer while both are active."""

    def __init__(self) -> None:
        self._hooks = Hooks("run", self._before_run)

    def stand_down(self, roots: Iterable[nn.Module]) -> None:
        """Nothing of it is wanted: its list is emptied, its deltas are taken out of the weights."""
        self.take_off()
        if (networks := host.builtin_networks()) is None:
            return
        if networks.loaded_networks:
            networks.load_networks([])
        for layer in (layer for root in roots for layer in _its_layers(root)):
            _settle(networks, layer)

    def write_first(self, layers: Iterable[nn.Module]) -> None:
        """Before each run of these it writes its delta, so that ours, added live, finds it there and leaves it."""
        self.take_off()
        self._hooks.put_on(layer for layer in layers if isinstance(layer, _PATCHED))

    def take_off(self) -> None:
        self._hooks.leave()

    def _before_run(self, layer: nn.Module, *_: object) -> None:
        networks = host.builtin_networks()
        if networks is not None and not host.option("lora_functional", False):
            _settle(networks, layer)


def pristine(layer: nn.Module, name: str) -> Tensor | None:
    """The weight without its delta, while that is inside; an attention's backup has the fused matrix first."""
    backup = getattr(layer, "network_weights_backup", None) if _current(layer) else None
    if isinstance(backup, tuple):
        return backup[0] if name == "in_proj_weight" else None
    return backup if name == "weight" and isinstance(backup, Tensor) else None


def _settle(networks: Any, layer: nn.Module) -> None:
    """Bring the layer to what it wants now, as it would itself in the layer's next forward."""
    wanted = tuple((n.name, n.te_multiplier, n.unet_multiplier, n.dyn_dim) for n in networks.loaded_networks)
    if _current(layer) != wanted:
        with torch.no_grad():
            networks.network_apply_weights(layer)


def _current(layer: nn.Module) -> tuple[Any, ...]:
    """What it has put into this layer, as the layer itself says."""
    return tuple(vars(layer).get("network_current_names", ()))


def _its_layers(root: nn.Module) -> list[nn.Module]:
    """Where it has a delta inside; it writes an attention's `out_proj` together with the attention."""
    return [m for m in root.modules() if isinstance(m, _PATCHED) and _current(m)]
