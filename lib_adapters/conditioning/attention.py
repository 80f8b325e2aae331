"""Hypernetworks on one UNet: the inputs of `to_k` and `to_v` pass through their nets, and nothing else changes.

By hooks on those layers, so that every way to compute attention is served, and only while something is active. Several
are chained in the order of the prompt, each behind the one before, as the web UI does:
x -> x1 = x + m1 · net1(x) -> x1 + m2 · net2(x1).
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_adapters.algorithms.base import LARGEST
from lib_adapters.conditioning.hypernetwork import Hypernetwork
from lib_adapters.conditioning.nets import Net
from lib_adapters.errors import AdapterError, FamilyMismatch, ShapeMismatch
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.patching.report import AdapterReport

KEYS, VALUES = 0, 1


@dataclass(frozen=True)
class Steering:
    """One hypernetwork and its strength; 0 is the same as its absence."""

    hypernetwork: Hypernetwork
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and abs(self.strength) <= LARGEST):
            raise AdapterError(f"{self.hypernetwork.name}: a strength must be a finite number, not {self.strength}.")

    @property
    def key(self) -> tuple[str, float]:
        return self.hypernetwork.key, float(self.strength)


class SteeringReport(AdapterReport):
    """Layers are attentions here; there is one strength."""

    def line(self) -> str:
        if self.error is not None:
            return self.error
        kind = next(iter(self.algorithms), "Hypernetwork")
        return f"{self.name}: {self.matched} of {self.total} attentions ({kind}), strength {self.unet:g}"


class Branch:
    """A forward pre-hook of one `to_k` or `to_v`. A copy of the model gets one that does nothing."""

    def __init__(self, chain: Sequence[tuple[Net, float]] = ()) -> None:
        self._chain = list(chain)

    def __reduce__(self) -> tuple[type[Branch], tuple[()]]:
        return Branch, ()

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._chain or not inputs:
            return None
        return (self._steered(inputs[0]), *inputs[1:])

    def _steered(self, x: Tensor) -> Tensor:
        """In float32, whatever the host's autocast says, and back in x's own type."""
        if self._chain[0][0].device != x.device:  # a host short of memory moves layers while it draws
            self._chain = [(net.on(x.device), strength) for net, strength in self._chain]
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            out = x.float()
            for net, strength in self._chain:
                out = out + strength * net(out)
        return out.to(x.dtype)


class Hypernetworks:
    """What is active on one UNet. Holds the model weakly."""

    def __init__(self, unet: nn.Module, family: str = "unknown") -> None:
        self._unet = weakref.ref(unet)
        self._family = family
        self._handles: list[RemovableHandle] = []
        self._active: list[tuple[str, float]] = []
        self._reports: list[AdapterReport] = []

    def activate(self, wanted: Sequence[Steering]) -> list[AdapterReport]:
        """Exactly these, in this order, are active afterwards; safe to repeat."""
        keys = [one.key for one in wanted]
        unet = self._unet()
        if unet is None or keys == self._active:
            return self._reports
        layers = attention_inputs(unet)
        used, reports = [], []
        for one in wanted:
            report = _fit(one, layers, self._family)
            reports.append(report)
            if report.matched and one.strength != 0:
                used.append(one)
        fresh = _branches(used, layers)
        self.deactivate()
        self._handles = [layer.register_forward_pre_hook(branch) for layer, branch in fresh]
        self._active, self._reports = keys, reports
        return reports

    def deactivate(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._active, self._reports = [], [], []

    def __len__(self) -> int:
        return len(self._handles)


@dataclass(frozen=True)
class Input:
    """A layer that makes keys (0) or values (1) from inputs of some width."""

    layer: nn.Module
    which: int
    width: int


def attention_inputs(unet: nn.Module) -> list[Input]:
    """Every `to_k` and `to_v` of a UNet, in LDM's, sgm's and diffusers' classes alike."""
    found = []
    for module in unet.modules():
        for which, name in ((KEYS, "to_k"), (VALUES, "to_v")):
            layer = getattr(module, name, None)
            weight = getattr(layer, "weight", None)
            if isinstance(layer, nn.Module) and isinstance(weight, Tensor) and weight.ndim == 2:
                found.append(Input(layer, which, weight.shape[1]))
    return found


def _branches(used: Sequence[Steering], layers: Sequence[Input]) -> list[tuple[nn.Module, Branch]]:
    branches = []
    for one in layers:
        pairs = [(steering.hypernetwork.pairs.get(one.width), steering.strength) for steering in used]
        chain = [(pair[one.which], strength) for pair, strength in pairs if pair is not None]
        if chain:
            branches.append((one.layer, Branch(chain)))
    return branches


def _fit(one: Steering, layers: Sequence[Input], family: str) -> AdapterReport:
    started, file = time.perf_counter(), one.hypernetwork
    report = SteeringReport(file.name, one.strength, 0.0, total=len(layers) // 2)
    try:
        _refuse(file, layers, family)
        report.matched = sum(layer.width in file.pairs for layer in layers) // 2
        report.algorithms = {f"Hypernetwork {file.structure}": report.matched}
    except AdapterError as error:
        report.error = str(error)
    report.seconds = time.perf_counter() - started
    return report


def _refuse(file: Hypernetwork, layers: Sequence[Input], family: str) -> None:
    """A file for another base shares some widths with this one: applied there it would only spoil self-attention."""
    if "unknown" not in (file.family, family) and file.family != family:
        raise FamilyMismatch(
            f"{file.name} was made for {FAMILY_NAMES[file.family]}, but this model is "
            f"{FAMILY_NAMES.get(family, family)}: nothing of it was applied. Use a file made for this model."
        )
    widths = {layer.width for layer in layers}
    if not widths & file.pairs.keys():
        theirs, ours = (", ".join(map(str, sorted(some))) for some in (file.pairs, widths))
        raise ShapeMismatch(f"{file.name} has nets for widths {theirs}; this model's attention has {ours or 'none'}.")
