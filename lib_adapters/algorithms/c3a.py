"""C3A: ΔW consists of circulant blocks, ΔW[m·b + t, n·b + p] = w[m, n, (p − t) mod b] / i.

Paper: arXiv:2407.19342. Tensor name: PEFT `C3ALayer`, which computes the same with Fourier transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, same_up_to_1x1, shape_mismatch
from lib_adapters.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class C3a(Algorithm):
    """Fits linear layers and 1x1 convolutions, W [M·b, N·b] or [M·b, N·b, 1, 1]; has no alpha."""

    label: ClassVar[str] = "C3A"
    needs_weight: ClassVar[bool] = False

    kernel: Tensor  # [M, N, b]: w

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"c3a_kernel"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        kernel = tensors["c3a_kernel"]
        if kernel.ndim != 3:
            raise ShapeMismatch(f"c3a_kernel needs three axes, not {list(kernel.shape)}")
        return cls(kernel)

    def check_shape(self, shape: Shape) -> None:
        if len(shape) < 2 or not same_up_to_1x1(self._matrix, shape):
            raise shape_mismatch(self._matrix, shape)

    def delta(self, weight: Tensor) -> Tensor:
        spot = torch.arange(self.kernel.shape[2], device=self.kernel.device)
        shift = (spot - spot.unsqueeze(1)) % len(spot)  # [t, p]
        blocks = self.kernel.float()[:, :, shift].transpose(1, 2)  # [M, t, N, p]
        return blocks.reshape(weight.shape).div_(self._matrix[1])

    @property
    def _matrix(self) -> Shape:
        m, n, size = self.kernel.shape
        return (m * size, n * size)
