"""Diag-OFT: W' = Rᵀ·W per block of output rows, R = (I + Q)(I − Q)⁻¹, Q = B − Bᵀ; strength is linear in W' − W.

Paper: arXiv:2306.07280. Leaf names: LyCORIS `DiagOFTModule`, kohya sd-scripts `networks/oft.py`. `alpha` bounds ‖Q‖.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, shape_mismatch, to_scalar
from lib_adapters.algorithms.history import KOHYA_OFT_KEEPS_BIAS_SINCE
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.orthogonal import cayley_delta, clip_norm, clip_norm_kohya, rotate_rows_, skew


class RowRotation(Algorithm):
    """ΔW = turn·W per block of output rows, W [n*b, i, ...]; `rank` is b."""

    label: ClassVar[str] = "OFT"
    blocks: Tensor  # [n, b, b]

    @abstractmethod
    def turn(self) -> Tensor:
        """Rᵀ − I, [n, b, b]."""

    def check_shape(self, shape: Shape) -> None:
        if len(shape) < 2 or shape[0] != self.out:
            raise shape_mismatch((self.out, *shape[1:]), shape)

    def delta(self, weight: Tensor) -> Tensor:
        out = weight.new_zeros(weight.shape)
        rotate_rows_(out, weight, self.turn(), 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        rotate_rows_(out, weight, self.turn(), strength)

    @property
    def out(self) -> int:
        """o, the rows that are turned."""
        return self.blocks.shape[0] * self.blocks.shape[1]

    @property
    def rank(self) -> int:
        return self.blocks.shape[1]


@dataclass(frozen=True, eq=False)
class Oft(RowRotation):
    """Fits W [o, i, ...] with o = n·b rows; a `rescale` multiplies Rᵀ·W. LyCORIS from 2.1.0 on, kohya."""

    blocks: Tensor  # [n, b, b]: B
    bound: float  # the largest ‖Q‖ over all blocks; infinite for none
    rescale: Tensor | None = None  # [o, 1, ...] for rows; [i] for columns as LyCORIS 2.1.0 had it
    smooth: bool = False  # kohya's epsilon
    turns_bias: bool = False  # the layer's output was turned: kohya at first, LyCORIS in bypass mode

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return len(shapes.get("oft_blocks", ())) == 3 and shapes.keys() <= {"oft_blocks", "alpha", "rescale"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        blocks, rescale = tensors["oft_blocks"], tensors.get("rescale")
        check_square(blocks)
        out = blocks.shape[0] * blocks.shape[1]
        check_rescale(rescale, out)
        kohya = info.constraint_is_bound
        turns_bias = 0 < info.trained_at < KOHYA_OFT_KEEPS_BIAS_SINCE if kohya else info.bypass_mode
        return cls(blocks, bound_of(tensors, out, always=kohya), rescale, kohya, turns_bias)

    def check_shape(self, shape: Shape) -> None:
        super().check_shape(shape)
        if self._by_column and shape != (self.out, self.out):
            raise ShapeMismatch(f"a rescale of {[self.out]} was trained on square layers only, not on {list(shape)}")

    def turn(self) -> Tensor:
        bound = clip_norm_kohya if self.smooth else clip_norm
        turn = cayley_delta(-bound(skew(self.blocks), self.bound))
        if self.rescale is None or self._by_column:
            return turn
        rows = self.rescale.float().reshape(*turn.shape[:2], 1)
        return turn * rows + torch.diag_embed(rows.squeeze(-1) - 1.0)

    def delta(self, weight: Tensor) -> Tensor:
        turned = super().delta(weight)
        if self.rescale is None or not self._by_column:
            return turned
        return turned.add_(weight).mul_(self.rescale.float()).sub_(weight)

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        if self._by_column:
            out.add_(self.delta(weight), alpha=strength)
        else:
            super().add_delta_(out, weight, strength)

    @property
    def has_bias(self) -> bool:
        return self.turns_bias

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        if not self.turns_bias:
            return None
        delta = torch.zeros_like(bias)
        rotate_rows_(delta.unsqueeze(1), bias.unsqueeze(1), self.turn(), 1.0)
        return delta

    @property
    def _by_column(self) -> bool:
        return self.rescale is not None and self.rescale.ndim == 1


@dataclass(frozen=True, eq=False)
class OftDiag(RowRotation):
    """The files before 2024-02-12: R itself, any rescale folded in, or R − I in those of October 2023."""

    blocks: Tensor  # [n, b, b]
    is_offset: bool  # R − I is stored

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return len(shapes.get("oft_diag", ())) == 3 and shapes.keys() <= {"oft_diag", "alpha"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        blocks = tensors["oft_diag"]
        check_square(blocks)
        return cls(blocks, is_offset=not _rows_are_orthogonal(blocks.float()))

    def turn(self) -> Tensor:
        turn = self.blocks.float().mT
        return turn if self.is_offset else turn - torch.eye(self.rank, dtype=turn.dtype, device=turn.device)


def _rows_are_orthogonal(blocks: Tensor) -> bool:
    """R has orthogonal rows near length 1, rescaled or not; the R − I of 2023 was trained freely from zero."""
    gram = blocks @ blocks.mT
    lengths = gram.diagonal(dim1=-2, dim2=-1)
    apart = float((gram - torch.diag_embed(lengths)).norm()) < 0.1 * float(lengths.norm())
    return apart and float(lengths.mean()) > 0.25


def check_square(blocks: Tensor) -> None:
    """ShapeMismatch unless the blocks are [..., b, b] and not empty."""
    if blocks.shape[-1] != blocks.shape[-2] or not blocks.numel():
        raise ShapeMismatch(f"the rotation blocks must be square, not {list(blocks.shape)}")


def check_rescale(rescale: Tensor | None, out: int) -> None:
    """ShapeMismatch unless it is None or [out, 1, ...] or [out]."""
    if rescale is not None and (rescale.ndim == 0 or rescale.numel() != out or len(rescale) != out):
        raise ShapeMismatch(f"a rescale of {list(rescale.shape)} does not fit rotations of {out} rows")


def bound_of(leaves: Tensors, out: int, always: bool = False) -> float:
    """The stored constraint times the rows; no constraint where none or 0 is stored, unless 0 means 0 (kohya)."""
    if "alpha" not in leaves:
        return math.inf
    constraint = to_scalar(leaves["alpha"])
    return constraint * out if constraint > 0 or always else math.inf
