"""Base classes and checks for algorithms whose ΔW is a product of small factors."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lib_adapters.algorithms.base import (
    Algorithm,
    LayerGroup,
    LowRankFactors,
    Shape,
    Tensors,
    TrainingInfo,
    check_scale,
    scale_of,
    to_scalar,
)
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul


class AdditiveAlgorithm(Algorithm):
    """Base of algorithms that define ΔW by `product`, without reading W; implements `delta` and `add`."""

    needs_weight: ClassVar[bool] = False

    @abstractmethod
    def lazy_delta(self, shape: Shape) -> LazyDelta:
        """ΔW at strength 1 for a weight of `shape`, [o, i, ...], unevaluated."""

    def delta(self, weight: Tensor) -> Tensor:
        out = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        self.lazy_delta(out.shape).add(out, strength)


class LowRankOfWeight(Algorithm):
    """Base of algorithms whose ΔW is a low-rank pair computed from W (`as_low_rank`); implements `delta` and `add`."""

    @abstractmethod
    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        """Return ΔW at strength 1 as a low-rank pair, for base [o, i, ...]."""

    def delta(self, weight: Tensor) -> Tensor:
        out = weight.new_zeros(weight.shape)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        pair = self.as_low_rank(weight)
        Matmul(pair.up, pair.down, pair.scale).add(out, strength)


def total_scale(leaves: Tensors, rank: int, facts: TrainingInfo) -> float:
    """The whole factor before ΔW; a `scalar` that was not folded in on saving multiplies it. Raises as `scale_of`."""
    scalar = to_scalar(leaves["scalar"]) if "scalar" in leaves else 1.0
    return check_scale(scale_of(leaves, rank, facts) * scalar)


def check_factors(up: Tensor, down: Tensor, what: str) -> None:
    """up [o, r, (1...)] and down [r, ...] must agree on r, else ShapeMismatch; `what` names them in its message."""
    units = all(k == 1 for k in up.shape[2:])
    if up.ndim < 2 or down.ndim < 2 or not units or up.shape[1] != down.shape[0]:
        raise ShapeMismatch(f"the factors {what} of {list(up.shape)} and {list(down.shape)} do not fit each other")


def input_matches(down: Shape, weight: Shape) -> bool:
    """Do the columns of down [r, i, ...kernel] fit a weight [o, i, ...]? A flat [r, i*kernel] is LyCORIS' DyLoRA."""
    if len(weight) < 2:
        return False
    kernel, mine = _unit(weight[2:]), _unit(down[2:])
    flat = weight[1]
    for size in kernel:
        flat *= size
    return (down[1] == weight[1] and mine == kernel) or (len(down) == 2 and down[1] == flat)


def _unit(kernel: Shape) -> Shape:
    return () if all(k == 1 for k in kernel) else kernel


def check_group(group: LayerGroup, name: str) -> None:
    """Raise ShapeMismatch unless this model has all layers of the file, because the largest one determines sizes."""
    if group.missing:
        raise ShapeMismatch(
            f"the random projections of {name} depend on the sizes of all layers of the file; {group.missing} of them "
            "cannot be used on this model; save the file again with save_projection=True"
        )


def require_projections(a: Tensor | None, b: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Return the random projections of `name`. Raise ShapeMismatch if `in_group` has not generated them."""
    if a is None or b is None:
        raise ShapeMismatch(f"the random projections of {name} depend on all layers of the file, which are unknown")
    return a, b
