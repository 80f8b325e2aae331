"""GraLoRA: W is divided into k x k blocks, each with its own low-rank pair: ΔW[j, n] = scale · B[j, n]ᵀ·A[n, j]ᵀ.

A[n] has the ranks of block column n, r/k for each block row j; B[j] those of block row j, r/k for each block column.
Hybrid GraLoRA adds a LoRA pair of rank h for the whole layer. scale = alpha/(r + h).
Paper: arXiv:2505.20355. Tensor names: PEFT `GraloraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    Algorithm,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    same_up_to_1x1,
    scale_of,
    shape_mismatch,
)
from lib_adapters.errors import ShapeMismatch

BLOCKS = {"gralora_A", "gralora_B"}
HYBRID = {"gralora_A_general.weight", "gralora_B_general.weight"}


@dataclass(frozen=True, eq=False)
class Gralora(Algorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]."""

    label: ClassVar[str] = "GraLoRA"
    needs_weight: ClassVar[bool] = False

    downs: Tensor  # [k, i/k, r]: A
    ups: Tensor  # [k, r, o/k]: B
    hybrid_up: Tensor | None  # [o, h]
    hybrid_down: Tensor | None  # [h, i]
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= BLOCKS and shapes.keys() <= {*BLOCKS, *HYBRID, "alpha"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        downs, ups = tensors["gralora_A"], tensors["gralora_B"]
        if downs.ndim != 3 or ups.ndim != 3 or downs.shape[::2] != ups.shape[:2] or downs.shape[2] % len(downs):
            shapes = f"{list(downs.shape)} and {list(ups.shape)}"
            raise ShapeMismatch(f"the factors gralora_A and gralora_B of {shapes} do not fit each other")
        up, down = tensors.get("gralora_B_general.weight"), tensors.get("gralora_A_general.weight")
        if up is not None and down is not None:
            _check_hybrid(up, down, (len(ups) * ups.shape[2], len(downs) * downs.shape[1]))
        rank = downs.shape[2] + (0 if down is None else len(down))
        return cls(downs, ups, up, down, scale_of(tensors, rank, info))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.ups) * self.ups.shape[2], len(self.downs) * self.downs.shape[1])
        if len(shape) < 2 or not same_up_to_1x1(mine, shape):
            raise shape_mismatch(mine, shape)

    def delta(self, weight: Tensor) -> Tensor:
        k, width, rank = self.downs.shape
        downs = self.downs.float().view(k, width, k, rank // k)
        ups = self.ups.float().view(k, k, rank // k, self.ups.shape[2])
        delta = torch.einsum("nijq,jnqo->joni", downs, ups).reshape(len(weight), -1)
        if self.hybrid_up is not None and self.hybrid_down is not None:
            delta = torch.addmm(delta, self.hybrid_up.float(), self.hybrid_down.float())
        return delta.mul(self.scale).view(weight.shape)

    @property
    def rank(self) -> int:
        return self.downs.shape[2] + (0 if self.hybrid_down is None else len(self.hybrid_down))


def _check_hybrid(up: Tensor, down: Tensor, blocks: Shape) -> None:
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != len(down) or (len(up), down.shape[1]) != blocks:
        what = f"gralora_B_general and gralora_A_general of {list(up.shape)} and {list(down.shape)}"
        raise ShapeMismatch(f"{what} do not fit blocks with a total shape of {list(blocks)}")
