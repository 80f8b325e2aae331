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

from lib_adapters.algorithms.base import (
    LowRankFactors,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    same_up_to_1x1,
    shape_mismatch,
)
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul

LEAVES = {"delora_A", "delora_B", "delora_lambda", "delora_w_norm"}
SMALLEST = 1e-4  # of ‖a‖ and ‖b‖


@dataclass(frozen=True, eq=False)
class Delora(AdditiveAlgorithm):
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
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        up, down, bound, norms = (tensors[f"delora_{name}"] for name in ("B", "A", "lambda", "w_norm"))
        check_factors(up, down, "delora_B and delora_A")
        if up.ndim != 2 or down.ndim != 2 or bound.numel() != 1 or norms.shape != down.shape[1:]:
            shapes = ", ".join(str(list(t.shape)) for t in (up, down, bound, norms))
            raise ShapeMismatch(f"the DeLoRA tensors of {shapes} do not fit each other")
        return cls(up, down, bound.flatten(), norms, 1.0 / len(down))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.up), self.down.shape[1])
        if len(shape) < 2 or not same_up_to_1x1(mine, shape):
            raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        return Matmul(*self._pair(), self.share)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        return LowRankFactors(*self._pair(), self.share)

    def _pair(self) -> tuple[Tensor, Tensor]:
        up, down = self.up.float(), self.down.float()
        lengths = _norm(up, 0) * _norm(down, 1)
        return up * (self.bound.float() / lengths), down * self.norms.float()

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncate(self, rank: int) -> Self:
        """Keep λ/r of the full rank."""
        return replace(self, up=self.up[:, :rank], down=self.down[:rank]) if 0 < rank < self.rank else self


def _norm(factor: Tensor, axis: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(factor, dim=axis)
    return norm.clamp(min=SMALLEST)
