"""Base classes and checks for algorithms whose ΔW is a product of small factors."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lib_adapters.algorithms.base import (
    Algorithm,
    Facts,
    LayerGroup,
    Leaves,
    LowRank,
    Shape,
    computable,
    number,
    scale_of,
)
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.product import Matmul, Product


class Factored(Algorithm):
    """Base of algorithms that define ΔW by `product`, without reading W; implements `delta` and `add`."""

    reads_base: ClassVar[bool] = False

    @abstractmethod
    def product(self, shape: Shape) -> Product:
        """ΔW at strength 1 for a weight of `shape`, [o, i, ...], unevaluated."""

    def delta(self, base: Tensor) -> Tensor:
        out = torch.zeros(base.shape, dtype=torch.float32, device=base.device)
        self.add(out, base, 1.0)
        return out

    def add(self, out: Tensor, base: Tensor, strength: float) -> None:
        self.product(out.shape).add(out, strength)


class ThinOnBase(Algorithm):
    """Base of algorithms whose ΔW is a low-rank pair computed from W (`low_rank`); implements `delta` and `add`."""

    @abstractmethod
    def low_rank(self, base: Tensor) -> LowRank:
        """Return ΔW at strength 1 as a low-rank pair, for base [o, i, ...]."""

    def delta(self, base: Tensor) -> Tensor:
        out = base.new_zeros(base.shape)
        self.add(out, base, 1.0)
        return out

    def add(self, out: Tensor, base: Tensor, strength: float) -> None:
        pair = self.low_rank(base)
        Matmul(pair.up, pair.down, pair.scale).add(out, strength)


def factor(leaves: Leaves, rank: int, facts: Facts) -> float:
    """The whole factor before ΔW; a `scalar` that was not folded in on saving multiplies it. Raises as `scale_of`."""
    scalar = number(leaves["scalar"]) if "scalar" in leaves else 1.0
    return computable(scale_of(leaves, rank, facts) * scalar)


def check_pair(up: Tensor, down: Tensor, what: str) -> None:
    """up [o, r, (1...)] and down [r, ...] must agree on r, else ShapeMismatch; `what` names them in its message."""
    units = all(k == 1 for k in up.shape[2:])
    if up.ndim < 2 or down.ndim < 2 or not units or up.shape[1] != down.shape[0]:
        raise ShapeMismatch(f"the factors {what} of {list(up.shape)} and {list(down.shape)} do not fit each other")


def fits_columns(down: Shape, weight: Shape) -> bool:
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


def drawn(a: Tensor | None, b: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Return the random projections of `name`. Raise ShapeMismatch if `in_group` has not generated them."""
    if a is None or b is None:
        raise ShapeMismatch(f"the random projections of {name} depend on all layers of the file, which are unknown")
    return a, b
