"""MiSS, formerly Bone: one small block repeated over W: ΔW[o, c] = B[c mod r, o].

With PEFT's `init_weights="mini"` the block is repeated over the rows too: ΔW[o, c] = B[c mod r, o mod m]. This is not
in the file but in the override `miss_mini` (from PEFT's config, or set by the user).
With "bat" the block depends on W: ΔW[j, n] = W[j, n]·B[j] + B[j] for the blocks [r, r] of W.
Paper: arXiv:2409.15371. Tensor names: PEFT `MissLayer` (`miss_block`), `BoneLayer` (`bone_block`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, same_up_to_1x1
from lib_adapters.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class Miss(Algorithm):
    """Fits linear layers and 1x1 convolutions of o rows (a multiple of m with `mini`) and at least r columns."""

    label: ClassVar[str] = "MiSS"
    needs_weight: ClassVar[bool] = False

    block: Tensor  # [r, o], or [r, m] with `mini`
    mini: bool

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"miss_block"} and len(shapes["miss_block"]) != 3

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        block = tensors["miss_block"]
        if block.ndim != 2:
            raise ShapeMismatch(f"miss_block needs two or three axes, not {list(block.shape)}")
        return cls(block, bool((info.overrides or {}).get("miss_mini")))

    def check_shape(self, shape: Shape) -> None:
        rank, rows = self.block.shape
        plain = len(shape) >= 2 and same_up_to_1x1(shape[:2], shape) and rank <= shape[1]
        if not plain or (shape[0] % rows if self.mini else shape[0] != rows):
            hint = "" if self.mini else "; if it was trained with init_weights 'mini', add its adapter_config.json"
            raise ShapeMismatch(f"a repeated block of {[rows, rank]} does not fit a weight of {list(shape)}{hint}")

    def delta(self, weight: Tensor) -> Tensor:
        rank, rows = self.block.shape
        row = torch.arange(weight.shape[0], device=self.block.device) % rows
        column = torch.arange(weight.shape[1], device=self.block.device) % rank
        return self.block.float().T[row][:, column].view(weight.shape)

    @property
    def rank(self) -> int:
        return len(self.block)


@dataclass(frozen=True, eq=False)
class MissBat(Algorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] with o = n·r rows and a multiple of r columns."""

    label: ClassVar[str] = "MiSS (bat)"

    blocks: Tensor  # [n, r, r]

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"miss_block"} and len(shapes["miss_block"]) == 3

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        blocks = tensors["miss_block"]
        if blocks.shape[1] != blocks.shape[2]:
            raise ShapeMismatch(f"miss_block needs square blocks, not {list(blocks.shape)}")
        return cls(blocks)

    def check_shape(self, shape: Shape) -> None:
        rows = len(self.blocks) * self.rank
        if len(shape) < 2 or not same_up_to_1x1(shape[:2], shape) or rows != shape[0] or shape[1] % self.rank:
            raise ShapeMismatch(f"blocks of {list(self.blocks.shape)} do not fit a weight of {list(shape)}")

    def delta(self, base: Tensor) -> Tensor:
        n, size, _ = self.blocks.shape
        blocks = self.blocks.float().unsqueeze(1)  # [n, 1, r, r]
        weight = base.reshape(n, size, -1, size).transpose(1, 2)  # [n, i/r, r, r]
        return (weight @ blocks + blocks).transpose(1, 2).reshape(base.shape)

    @property
    def rank(self) -> int:
        return self.blocks.shape[-1]
