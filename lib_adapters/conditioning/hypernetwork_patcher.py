"""Hypernetworks on one UNet: hooks pass the inputs of `to_k` and `to_v` through their networks.

By hooks on those layers, so that every way to compute attention is served, and only while something is active. Several
are chained in the order of the prompt, each behind the one before, as the web UI does:
x -> x1 = x + m1 · net1(x) -> x1 + m2 · net2(x1).
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.algorithms.base import MAX_SCALE
from lib_adapters.conditioning.hypernetwork_file import Hypernetwork
from lib_adapters.conditioning.hypernetwork_net import HypernetworkNet
from lib_adapters.errors import AdapterError, FamilyMismatch, ShapeMismatch
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.ops.torch_modes import plain_tensors
from lib_adapters.patching.hooks import HookSet
from lib_adapters.patching.report import AdapterReport

KEY, VALUE = 0, 1
NetChain = list[tuple[HypernetworkNet, float]]  # and the strength of each


@dataclass(frozen=True)
class HypernetworkRequest:
    """One hypernetwork and its strength; 0 is the same as its absence. AdapterError where it is not finite."""

    hypernetwork: Hypernetwork
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and abs(self.strength) <= MAX_SCALE):
            raise AdapterError(f"{self.hypernetwork.name}: a strength must be a finite number, not {self.strength}.")

    @property
    def identity(self) -> tuple[str, float]:
        """Equal for the same file at the same strength."""
        return self.hypernetwork.cache_key, float(self.strength)


class HypernetworkReport(AdapterReport):
    """Layers are attentions here; there is one strength."""

    def summary(self) -> str:
        """One line for the user; the error where nothing was applied."""
        if self.error is not None:
            return self.error
        kind = next(iter(self.algorithms), "Hypernetwork")
        return f"{self.name}: {self.matched} of {self.total} attentions ({kind}), strength {self.unet:g}"


@dataclass
class _ActiveState:
    """All that changes when other hypernetworks are wanted: it changes in one stroke."""

    identities: list[tuple[str, float]] = field(default_factory=list)
    reports: list[AdapterReport] = field(default_factory=list)
    chains: dict[int, NetChain] = field(default_factory=dict)  # by the layer's id; the hooks know which layers live


class HypernetworkPatcher:
    """What is active on one UNet. Holds the model weakly. Its length is the number of hooks: 0 while nothing is."""

    def __init__(self, unet: nn.Module, family: str = "unknown") -> None:
        self._unet = weakref.ref(unet)
        self._family = family
        self._hooks = HookSet("run", self._before_forward, weak=False)  # a copy of the model gets hooks that do nothing
        self._active = _ActiveState()
        self._is_settled = True  # False after a change that did not come to its end

    def activate(self, requests: Sequence[HypernetworkRequest]) -> list[AdapterReport]:
        """Exactly these, in this order, are active afterwards; safe to repeat. What does not fit is told as `error`."""
        keys = [one.identity for one in requests]
        unet = self._unet()
        if unet is None or (self._is_settled and keys == self._active.identities):
            return self._active.reports
        layers = attention_projections(unet)
        used, reports = [], []
        for one in requests:
            report = _report_of(one, layers, self._family)
            reports.append(report)
            if report.matched and one.strength != 0:
                used.append(one)
        chains = _chains(used, layers)
        self._apply([one.layer for one in layers if id(one.layer) in chains], _ActiveState(keys, reports, chains))
        return reports

    def deactivate(self) -> None:
        """No layer has a hook of ours afterwards; safe to repeat."""
        self._apply([], _ActiveState())

    def __len__(self) -> int:
        return len(self._hooks)

    def _apply(self, layers: list[nn.Module], active: _ActiveState) -> None:
        """A hook without a chain does nothing, so those that come and those that go do not matter."""
        self._is_settled = False
        self._hooks.install(layers)
        self._active = active
        self._hooks.remove(layers)
        self._is_settled = True

    def _before_forward(
        self, layer: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        chains = self._active.chains
        if not inputs or (chain := chains.get(id(layer))) is None:
            return None
        if chain[0][0].device != inputs[0].device:  # a host short of memory moves layers while it draws
            with plain_tensors():
                chain = chains[id(layer)] = [(net.to(inputs[0].device), strength) for net, strength in chain]
        return (_apply_nets(inputs[0], chain), *inputs[1:]), kwargs


def _apply_nets(x: Tensor, chain: NetChain) -> Tensor:
    """In float32, whatever the host's autocast says, and back in x's own type."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        out = x.float()
        for net, strength in chain:
            out = out + strength * net(out)
    return out.to(x.dtype)


@dataclass(frozen=True)
class AttentionProjection:
    """A layer that makes keys (0) or values (1) from inputs [..., width]."""

    layer: nn.Module
    pair_index: int
    width: int


def attention_projections(unet: nn.Module) -> list[AttentionProjection]:
    """Every `to_k` and `to_v` of a UNet, in LDM's, sgm's and diffusers' classes alike."""
    found = []
    for module in unet.modules():
        for which, name in ((KEY, "to_k"), (VALUE, "to_v")):
            layer = getattr(module, name, None)
            weight = getattr(layer, "weight", None)
            if isinstance(layer, nn.Module) and isinstance(weight, Tensor) and weight.ndim == 2:
                found.append(AttentionProjection(layer, which, weight.shape[1]))
    return found


def _chains(used: Sequence[HypernetworkRequest], layers: Sequence[AttentionProjection]) -> dict[int, NetChain]:
    chains = {}
    for one in layers:
        pairs = [(steering.hypernetwork.nets.get(one.width), steering.strength) for steering in used]
        chain = [(pair[one.pair_index], strength) for pair, strength in pairs if pair is not None]
        if chain:
            chains[id(one.layer)] = chain
    return chains


def _report_of(one: HypernetworkRequest, layers: Sequence[AttentionProjection], family: str) -> AdapterReport:
    started, file = time.perf_counter(), one.hypernetwork
    report = HypernetworkReport(file.name, one.strength, 0.0, total=len(layers) // 2)
    try:
        _check_compatible(file, layers, family)
        report.matched = sum(layer.width in file.nets for layer in layers) // 2
        report.algorithms = {f"Hypernetwork {file.structure}": report.matched}
    except AdapterError as error:
        report.error = str(error)
    report.seconds = time.perf_counter() - started
    return report


def _check_compatible(file: Hypernetwork, layers: Sequence[AttentionProjection], family: str) -> None:
    """A file for another base shares some widths with this one: applied there it would only spoil self-attention."""
    if "unknown" not in (file.family, family) and file.family != family:
        raise FamilyMismatch(
            f"{file.name} was made for {FAMILY_NAMES[file.family]}, but this model is "
            f"{FAMILY_NAMES.get(family, family)}: nothing of it was applied. Use a file made for this model."
        )
    widths = {layer.width for layer in layers}
    if not widths & file.nets.keys():
        theirs, ours = (", ".join(map(str, sorted(some))) for some in (file.nets, widths))
        raise ShapeMismatch(f"{file.name} has nets for widths {theirs}; this model's attention has {ours or 'none'}.")
