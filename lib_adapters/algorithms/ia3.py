"""IA3: rows (or columns) of W are scaled: ΔW = w ⊙ W.

Paper: arXiv:2205.05638. Leaf names: LyCORIS `IA3Module` (an offset from one) and PEFT `ia3_l` (the multiplier itself).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, shape_mismatch, to_scalar
from lib_adapters.algorithms.history import IA3_KEEPS_BIAS_SINCE
from lib_adapters.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class Ia3(Algorithm):
    """Fits W [o, i, ...]; no alpha is read. For rows Δb = w ⊙ b: PEFT, LyCORIS before 3.0 or in bypass mode."""

    label: ClassVar[str] = "IA3"

    offset: Tensor  # [o] or [i], float32
    axis: int | None  # 0 rows, 1 columns, None: whichever fits (a PEFT convolution says neither)
    scales_bias: bool

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return "ia3_l" in shapes or ("weight" in shapes and shapes.keys() <= {"weight", "on_input", "alpha"})

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        vector = tensors["ia3_l"] if "ia3_l" in tensors else tensors["weight"]
        if vector.numel() not in vector.shape:
            raise ShapeMismatch(f"a vector was expected, not {list(vector.shape)}")
        if "ia3_l" in tensors:
            return cls(vector.float().flatten() - 1, _peft_axis(vector.shape), True)
        kept = info.trained_at >= IA3_KEEPS_BIAS_SINCE and not info.bypass_mode
        axis = 1 if "on_input" in tensors and to_scalar(tensors["on_input"]) else 0
        return cls(vector.float().flatten(), axis, not kept)

    def check_shape(self, shape: Shape) -> None:
        if len(shape) < 2 or len(self.offset) != shape[self._axis(shape)]:
            raise shape_mismatch(self.offset.shape, shape)

    def _axis(self, shape: Shape) -> int:
        if self.axis is None:
            return int(len(self.offset) != shape[0])
        return self.axis

    def delta(self, weight: Tensor) -> Tensor:
        return weight * self._spread(weight.shape)

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        out.addcmul_(weight, self._spread(weight.shape), value=strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(weight, weight, self._spread(weight.shape), value=strength, out=out)

    def _spread(self, shape: Shape) -> Tensor:
        axis = self._axis(shape)
        return self.offset.view(*(-1 if n == axis else 1 for n in range(len(shape))))

    @property
    def has_bias(self) -> bool:
        return self.scales_bias and self.axis != 1

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        if not self.has_bias or len(bias) != len(self.offset):
            return None
        return bias * self.offset


def _peft_axis(shape: Shape) -> int | None:
    """Linear layers say [o, 1] or [1, i]; convolutions [1, n, 1, 1] for both."""
    return None if len(shape) > 2 else int(shape[0] == 1)
