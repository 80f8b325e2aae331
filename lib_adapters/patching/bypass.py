"""Bypass: y += ΔW·x for algorithms that do not need W, without building ΔW.

Axis letters: n = rows of the batch, ... = what lies between them and the channels, o = out, i = in, r = ranks.
Strengths are one number for each part, or a tensor [n, parts] where the rows of the batch differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_adapters.algorithms.base import Algorithm, LowRankFactors
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm
from lib_adapters.ops.kronecker import Kron, split_axis
from lib_adapters.ops.torch_modes import float32_math

Strengths = Sequence[float] | Tensor
MEMORY_PASS = 64  # products in the time in which a number of a large tensor is read and written


@dataclass(frozen=True)
class Cost:
    """In products of two numbers."""

    per_position: int  # beside the layer, for each place of its output
    per_call: int  # added to the weight
    outputs: int = 0


class BypassDelta(Protocol):
    """One or more deltas of a layer that run as one."""

    patch_count: int  # of its parts: it takes so many strengths
    cost: Cost

    def add(self, module: nn.Module, x: Tensor, y: Tensor, strengths: Strengths) -> None:
        """y += Σ strength · ΔW·x, in y's memory: x [n, ..., i], y [n, ..., o], or [n, i, h, w] and [n, o, ...]."""


def is_plain(module: nn.Module | None) -> bool:
    """A layer whose output is W·x + b and nothing else."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def bypass_deltas(module: nn.Module, algorithms: Sequence[Algorithm], weight: Tensor) -> list[BypassDelta] | None:
    """All of them in their order, or None where one reads W or has no such form. `base`: for its shape alone."""
    if not is_plain(module) or any(algorithm.needs_weight for algorithm in algorithms):
        return None
    found: list[BypassDelta] = []
    thin: list[LowRankFactors] = []
    for algorithm in algorithms:
        low = algorithm.as_low_rank(weight)
        if low is not None:
            thin.append(low)
            continue
        product = algorithm.lazy_delta(tuple(weight.shape)) if isinstance(algorithm, AdditiveAlgorithm) else None
        if not isinstance(product, Kron):
            return None
        found += [*_joined(module, thin), KroneckerBypass(product, tuple(weight.shape[2:]))]
        thin = []
    return [*found, *_joined(module, thin)]


def _joined(module: nn.Module, thin: Sequence[LowRankFactors]) -> list[BypassDelta]:
    return [LowRankBypass(module, thin)] if thin else []


def positions(module: nn.Module, x: Tensor) -> int:
    """Of the output for this input; at the edges of a picture it may be a few more or less."""
    if isinstance(module, nn.Conv2d):
        return x.numel() // (x.shape[1] * math.prod(module.stride))
    return x.numel() // x.shape[-1]


def total_cost(deltas: Sequence[BypassDelta]) -> Cost:
    """The work of all together; `outputs` of the widest."""
    works = [one.cost for one in deltas]
    return Cost(
        sum(w.per_position for w in works), sum(w.per_call for w in works), max((w.outputs for w in works), default=0)
    )


def add_bypass(deltas: Sequence[BypassDelta], module: nn.Module, x: Tensor, y: Tensor, strengths: Strengths) -> None:
    """y += Σ strength · ΔW·x; each takes its own part of the strengths, in their order."""
    start = 0
    for one in deltas:
        stop = start + one.patch_count
        one.add(module, x, y, strengths[:, start:stop] if isinstance(strengths, Tensor) else strengths[start:stop])
        start = stop


class LowRankBypass:
    """Low-rank deltas as one pair of thin layers: the ranks concatenated, the scale folded into `up`."""

    def __init__(self, module: nn.Module, factors: Sequence[LowRankFactors]) -> None:
        self.patch_count = len(factors)
        self._ranks = torch.tensor([low.up.shape[1] for low in factors], device="cpu")
        self._up = torch.cat([low.up.float() * low.scale for low in factors], dim=1)  # [o, r]
        down = torch.cat([low.down.float() for low in factors])
        if isinstance(module, nn.Conv2d):
            down = down.view(len(down), module.in_channels, *module.kernel_size)
        self._down = down
        ranks, outputs, inputs = len(down), len(self._up), down[0].numel()
        self.cost = Cost(
            ranks * (inputs + outputs) + MEMORY_PASS * outputs, (ranks + MEMORY_PASS) * outputs * inputs, outputs
        )
        self._cached_factors: tuple[object, tuple[Tensor, Tensor]] | None = None

    def add(self, module: nn.Module, x: Tensor, y: Tensor, strengths: Strengths) -> None:
        up, down = self._factors(y, strengths)
        if isinstance(module, nn.Conv2d):
            inner = functional.conv2d(x, down, None, module.stride, module.padding, module.dilation)
            inner = self._weighed(inner.flatten(2).mT, strengths)  # [n, h*w, r]
            seen = y.view(len(y), len(up), -1)
            seen.baddbmm_(up.expand(len(y), -1, -1), inner.mT)
        else:
            inner = self._weighed(functional.linear(x, down), strengths)
            y.view(-1, len(up)).addmm_(inner.reshape(-1, len(down)), up.t())

    def _factors(self, y: Tensor, strengths: Strengths) -> tuple[Tensor, Tensor]:
        """As y is stored; strengths that all rows share are in `up` already."""
        shared = None if isinstance(strengths, Tensor) else tuple(strengths)
        kind = (y.dtype, y.device, shared)
        if self._cached_factors is None or self._cached_factors[0] != kind:
            with float32_math():
                up = self._up
                if shared is not None:
                    factors = torch.tensor(shared, dtype=torch.float32, device="cpu")
                    up = up * self._spread(factors).to(up)
                self._cached_factors = kind, (up.to(y), self._down.to(y))
        return self._cached_factors[1]

    def _spread(self, strengths: Tensor) -> Tensor:
        """[..., parts] -> [..., r]"""
        return strengths.repeat_interleave(self._ranks.to(strengths.device), dim=-1)

    def _weighed(self, inner: Tensor, strengths: Strengths) -> Tensor:
        """inner [n, ..., r]"""
        if not isinstance(strengths, Tensor):
            return inner
        factors = self._spread(strengths)
        return inner * factors.view(len(factors), *(1 for _ in inner.shape[1:-1]), -1).to(inner)


class KroneckerBypass:
    """One Kronecker product w1 ⊗ w2: first w2 on each share of the channels, then w1 over the shares."""

    patch_count = 1

    def __init__(self, kron: Kron, kernel: tuple[int, ...]) -> None:
        """`kernel`: of the layer, empty for a linear one."""
        width = kron.w2.shape[1] // math.prod(kernel)
        (a, c), (b, d) = kron.w1.shape, kron.w2.shape
        self.cost = Cost(b * c * (a + d) + 2 * MEMORY_PASS * a * b, MEMORY_PASS * a * b * c * d, a * b)
        self._left, self._right = kron.w1 * kron.scale, kron.w2.view(len(kron.w2), width, *kernel)
        self._cached_factors: tuple[object, tuple[Tensor, Tensor]] | None = None

    def add(self, module: nn.Module, x: Tensor, y: Tensor, strengths: Strengths) -> None:
        left, right = self._factors(y)
        c = left.shape[1]
        if isinstance(module, nn.Conv2d):
            shares = split_axis(x, 1, c).flatten(0, 1)  # [n*c, i/c, h, w]
            inner = functional.conv2d(shares, right, None, module.stride, module.padding, module.dilation)
            out = torch.matmul(left, inner.view(len(x), c, -1)).view(y.shape)
        else:
            inner = functional.linear(split_axis(x, x.ndim - 1, c), right)
            out = torch.matmul(left, inner).view(y.shape)
        if isinstance(strengths, Tensor):
            y.addcmul_(out, strengths.view(-1, *(1 for _ in y.shape[1:])).to(y))
        else:
            y.add_(out, alpha=strengths[0])

    def _factors(self, y: Tensor) -> tuple[Tensor, Tensor]:
        kind = (y.dtype, y.device)
        if self._cached_factors is None or self._cached_factors[0] != kind:
            with float32_math():
                self._cached_factors = kind, (self._left.to(y), self._right.to(y))
        return self._cached_factors[1]
