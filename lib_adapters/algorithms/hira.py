"""HiRA: W is multiplied elementwise, ΔW = W ⊙ (B·A).

Paper: "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation", ICLR 2025. Tensor names: PEFT `HiraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, shape_mismatch
from lib_adapters.algorithms.low_rank import check_factors, input_matches
from lib_adapters.ops.lazy_delta import rows_per_block


@dataclass(frozen=True, eq=False)
class Hira(Algorithm):
    """Fits W [o, i, ...]; has no alpha."""

    label: ClassVar[str] = "HiRA"

    up: Tensor  # [o, r], or [o, r, 1, 1] on a convolution: B
    down: Tensor  # [r, i, ...]: A

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"hira_A", "hira_B"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        check_factors(tensors["hira_B"], tensors["hira_A"], "hira_B and hira_A")
        return cls(tensors["hira_B"], tensors["hira_A"])

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.up), *self.down.shape[1:])
        if not shape or mine[0] != shape[0] or not input_matches(mine, shape):
            raise shape_mismatch(mine, shape)

    def delta(self, weight: Tensor) -> Tensor:
        out = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        up, down, step = self.up.flatten(1).float(), self.down.flatten(1).float(), rows_per_block(weight)
        for rows in (slice(start, start + step) for start in range(0, len(weight), step)):
            factors = (up[rows] @ down).view(weight[rows].shape)
            out[rows].addcmul_(weight[rows], factors, value=strength)

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncate(self, rank: int) -> Self:
        return replace(self, up=self.up[:, :rank], down=self.down[:rank]) if 0 < rank < self.rank else self
