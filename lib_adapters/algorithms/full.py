"""Full: ΔW is in the file as it is. Leaf names: LyCORIS `FullModule`, ComfyUI's and ai-toolkit's `diff`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, same_up_to_1x1, shape_mismatch
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import rows_per_block


@dataclass(frozen=True, eq=False)
class Full(Algorithm):
    """ΔW and Δb as stored, either of which may be missing; no alpha is read, the scale is 1."""

    label: ClassVar[str] = "Full"
    needs_weight: ClassVar[bool] = False

    weight: Tensor | None  # shaped like W
    bias: Tensor | None  # [o]

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return "diff" in shapes or ("diff_b" in shapes and "lora_up.weight" not in shapes)

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        return cls(tensors.get("diff"), tensors.get("diff_b"))

    def check_shape(self, shape: Shape) -> None:
        if self.weight is not None and not same_up_to_1x1(self.weight.shape, shape):
            raise shape_mismatch(self.weight.shape, shape)
        if self.bias is not None and self.bias.shape != shape[:1]:
            raise ShapeMismatch(f"a bias of {list(self.bias.shape)} does not fit a weight of {list(shape)}")

    def delta(self, weight: Tensor) -> Tensor:
        if self.weight is None:
            return torch.zeros_like(weight)
        return self.weight.to(torch.float32, copy=True).view(weight.shape)

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        self._sum(out, out, strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(weight) if out is None else out
        if self.weight is None:
            return out.copy_(weight)
        self._sum(weight, out, strength)
        return out

    def _sum(self, base: Tensor, out: Tensor, strength: float) -> None:
        """out = base + strength · ΔW, block by block: the file's halves become float32 in the cache."""
        if self.weight is None:
            return
        step = rows_per_block(out)
        for rows in (slice(start, start + step) for start in range(0, len(out), step)):
            before = base[rows]
            torch.add(before, self.weight[rows].to(out).view(before.shape), alpha=strength, out=out[rows])

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(torch.float32, copy=True)

    @property
    def has_weight(self) -> bool:
        return self.weight is not None

    @property
    def has_bias(self) -> bool:
        return self.bias is not None
