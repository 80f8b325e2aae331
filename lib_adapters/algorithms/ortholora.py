"""OrthoLoRA as saved natively: ΔW = scale · P·C(S_p)·diag(λ)·C(S_q)·Q, C(S) = (I + A)⁻¹(I − A), A = S − Sᵀ.

Leaf names: the 67372a fork of LyCORIS, `OrthoLoRAModule`; P and Q are frozen singular vectors. Its first version
applied the scale twice while training, which no file tells; the later rule, once, is taken.
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
    scale_of,
    shape_mismatch,
)
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul
from lib_adapters.ops.orthogonal import cayley_delta, skew

LEAVES = ("P_basis", "S_p", "lambda_layer", "S_q", "Q_basis")


@dataclass(frozen=True, eq=False)
class OrthoLora(AdditiveAlgorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]."""

    label: ClassVar[str] = "OrthoLoRA"

    p: Tensor  # [o, r]
    turn_p: Tensor  # [r, r]: S_p
    weights: Tensor  # [1, r]: λ
    turn_q: Tensor  # [r, r]: S_q
    q: Tensor  # [r, i]
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= set(LEAVES) and shapes.keys() <= {*LEAVES, "alpha"}

    @classmethod
    def from_tensors(cls, leaves: Tensors, info: TrainingInfo) -> Self:
        p, turn_p, weights, turn_q, q = tensors = [leaves[name] for name in LEAVES]
        rank = weights.numel()
        expected = [(*p.shape[:1], rank), (rank, rank), (1, rank), (rank, rank), (rank, *q.shape[-1:])]
        if [t.shape for t in tensors] != expected:
            shapes = ", ".join(str(list(t.shape)) for t in tensors)
            raise ShapeMismatch(f"the OrthoLoRA tensors of {shapes} do not fit each other")
        return cls(p, turn_p, weights, turn_q, q, scale_of(leaves, rank, info))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.p), self.q.shape[1])
        if not same_up_to_1x1(mine, shape):
            raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        return Matmul(*self._pair(), self.scale)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        return LowRankFactors(*self._pair(), self.scale)

    def _pair(self) -> tuple[Tensor, Tensor]:
        rank = self.rank
        up, down = self.p.float() @ _rotation(self.turn_p), _rotation(self.turn_q) @ self.q.float()
        return up[:, :rank] * self.weights.float(), down[:rank]

    @property
    def rank(self) -> int:
        return self.weights.shape[1]

    def truncate(self, rank: int) -> Self:
        """λ cut after its first values, as the trainer's timestep mask does; alpha/r as it was."""
        return replace(self, weights=self.weights[:, :rank]) if 0 < rank < self.rank else self


def _rotation(generator: Tensor) -> Tensor:
    """C(S), [r, r]."""
    return cayley_delta(-skew(generator)) + torch.eye(len(generator), dtype=torch.float32, device=generator.device)
