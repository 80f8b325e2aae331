"""AdaLoRA: ΔW = scale · B · diag(λ) · A, with the rank components that training kept.

PEFT's scale is lora_alpha / (init_r + 1e-5), with the initial rank even if components were pruned.
Paper: arXiv:2303.10512. Tensor names: PEFT `AdaLoraLayer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import LowRankFactors, Shape, Shapes, Tensors, TrainingInfo, scale_of, shape_mismatch
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul

TENSORS = {"lora_up.weight", "lora_down.weight", "lora_E", "scale"}


@dataclass(frozen=True, eq=False)
class AdaLora(AdditiveAlgorithm):
    """Fits W [o, i, ...]; A is flattened for convolutions."""

    label: ClassVar[str] = "AdaLoRA"

    up: Tensor  # [o, r]: B
    down: Tensor  # [r, i*kernel]: A
    values: Tensor  # [r, 1]: λ
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == TENSORS

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        up, down, values = tensors["lora_up.weight"], tensors["lora_down.weight"], tensors["lora_E"]
        check_factors(up, down, "lora_B and lora_A")
        if up.ndim != 2 or down.ndim != 2 or values.shape != (len(down), 1):
            raise ShapeMismatch(f"lora_E of {list(values.shape)} does not fit lora_A of {list(down.shape)}")
        return cls(up, down, values, scale_of(tensors, len(down), info))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.up), self.down.shape[1])
        if not shape or mine != (shape[0], math.prod(shape[1:])):
            raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        return Matmul(self.up, self._weighted(), self.scale)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        return LowRankFactors(self.up, self._weighted(), self.scale)

    def _weighted(self) -> Tensor:
        return self.down.float() * self.values.float()

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncate(self, rank: int) -> Self:
        if not 0 < rank < self.rank:
            return self
        return replace(self, up=self.up[:, :rank], down=self.down[:rank], values=self.values[:rank])
