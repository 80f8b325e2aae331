"""Cooperation with the built-in Lora extension, which writes the same weights.

It is lazy: its delta stays in a layer after its last picture until that layer's next forward, and its backup, once
taken, is kept. So a pristine tensor may be taken only after it has restored with its own function.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.hosts.webui import webui_modules
from lib_adapters.patching.hooks import HookSet
from lib_adapters.session import AdapterReport

_PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


class BuiltinLora:
    """Asks the built-in to write or to restore; has one hook per shared layer while both are active."""

    def __init__(self) -> None:
        self._hooks = HookSet("run", self._before_forward)

    def disable(self, components: Iterable[nn.Module]) -> None:
        """Nothing of it is wanted: its list is emptied, its deltas are taken out of the weights."""
        self.remove_hooks()
        if (networks := webui_modules.builtin_networks()) is None:
            return
        if networks.loaded_networks:
            networks.load_networks([])
        for layer in (layer for root in components for layer in _its_layers(root)):
            _settle(networks, layer)

    def keep_applied(self, layers: Iterable[nn.Module]) -> None:
        """Before each run of these it writes its delta, so that ours, added live, finds it there and leaves it."""
        self.remove_hooks()
        self._hooks.install(layer for layer in layers if isinstance(layer, _PATCHED))

    def remove_hooks(self) -> None:
        self._hooks.remove()

    def _before_forward(self, layer: nn.Module, *_: object) -> None:
        networks = webui_modules.builtin_networks()
        if networks is not None and not webui_modules.opt("lora_functional", False):
            _settle(networks, layer)


def backed_up_weight(layer: nn.Module, name: str) -> Tensor | None:
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


# Notes on algorithms that the built-in Lora computes differently from the trainer, because old images may use it.
#
# Source: extensions-builtin/Lora/network_*.py of 1.10.1; plain LoRA, LoHa, LoKr and full agree up to rounding.


_NORM = "takes the norm over the inputs, even if the file has one magnitude per output"
BUILTIN_DIFFERENCES: Mapping[str, str] = {  # label of an algorithm -> what the built-in does
    "IA3": "does not change biases and convolutions",
    "DoRA": _NORM,
    "DoHa": _NORM,
    "DoKr": _NORM,
    "BOFT": "scales the whole change by the strength instead of each factor",
    "GLoRA": "ignores alpha, and does not apply files by LyCORIS 3.0 or later at all",
}


class BuiltinDifferences:
    """Remembers the algorithms already noted, and in which job, because the web UI calls several times per job."""

    def __init__(self) -> None:
        self._merge_states: dict[str, weakref.ref[Any]] = {}

    def notes(self, job: Any, reports: Iterable[AdapterReport]) -> list[str]:
        """Return a note for each such algorithm that was not noted in an earlier job.

        `reports`: those of the adapters of `<lora:...>` tags handled here.
        """
        if webui_modules.builtin_networks() is None:
            return []
        found = {label: one.name for one in reports for label in one.algorithms if label in BUILTIN_DIFFERENCES}
        new = {
            label: name
            for label, name in found.items()
            if label not in self._merge_states or self._merge_states[label]() is job
        }
        self._merge_states |= {label: weakref.ref(job) for label in new}
        return [
            f"{name}: {label} is computed as its trainer does. This differs from the built-in Lora, which "
            f"{BUILTIN_DIFFERENCES[label]}. "
            'To reproduce an image made with the built-in Lora, switch off "Handle <lora:...> as well".'
            for label, name in new.items()
        ]
