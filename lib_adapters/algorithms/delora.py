"""DeLoRA: ΔW = (λ/r) · Σₖ bₖ·aₖᵀ / (‖bₖ‖·‖aₖ‖), its columns times the norms of W's columns at the start of training.

Those norms are stored (`delora_w_norm`), so W itself is not read. Norms of a and b are clamped to at least 1e-4.
Paper: arXiv:2503.18225. Tensor names: PEFT `DeloraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Facts, Leaves, LowRank, Shape, Shapes, mismatch, same_layer
from lib_adapters.algorithms.factored import Factored, check_pair
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.product import Matmul, Product

LEAVES = {"delora_A", "delora_B", "delora_lambda", "delora_w_norm"}
SMALLEST = 1e-4  # of ‖a‖ and ‖b‖


@dataclass(frozen=True, eq=False)
class Delora(Factored):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]; has no alpha."""

    label: ClassVar[str] = "DeLoRA"

    up: Tensor  # [o, r]: b in columns
    down: Tensor  # [r, i]: a in rows
    bound: Tensor  # [1]: λ
    norms: Tensor  # [i]
    share: float  # 1/r

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == LEAVES

    @classmethod
    def from_leaves(cls, leaves: Leaves, facts: Facts) -> Self:
        up, down, bound, norms = (leaves[f"delora_{name}"] for name in ("B", "A", "lambda", "w_norm"))
        check_pair(up, down, "delora_B and delora_A")
        if up.ndim != 2 or down.ndim != 2 or bound.numel() != 1 or norms.shape != down.shape[1:]:
            shapes = ", ".join(str(list(t.shape)) for t in (up, down, bound, norms))
            raise ShapeMismatch(f"the DeLoRA tensors of {shapes} do not fit each other")
        return cls(up, down, bound.flatten(), norms, 1.0 / len(down))

    def check(self, shape: Shape) -> None:
        mine = (len(self.up), self.down.shape[1])
        if len(shape) < 2 or not same_layer(mine, shape):
            raise mismatch(mine, shape)

    def product(self, shape: Shape) -> Product:
        return Matmul(*self._pair(), self.share)

    def low_rank(self, base: Tensor) -> LowRank | None:
        return LowRank(*self._pair(), self.share)

    def _pair(self) -> tuple[Tensor, Tensor]:
        up, down = self.up.float(), self.down.float()
        lengths = _norm(up, 0) * _norm(down, 1)
        return up * (self.bound.float() / lengths), down * self.norms.float()

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncated(self, rank: int) -> Self:
        """Keep λ/r of the full rank."""
        return replace(self, up=self.up[:, :rank], down=self.down[:rank]) if 0 < rank < self.rank else self


def _norm(factor: Tensor, axis: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(factor, dim=axis)
    return norm.clamp(min=SMALLEST)
