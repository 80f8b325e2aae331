"""BOFT of PEFT: W' = diag(s)·W·(Fₘ ⋯ F₁)ᵀ, butterfly factors over the flattened input, R = (I − S)(I + S)⁻¹.

S = (B − Bᵀ)/2. PEFT ignores the strength and always computes at 1. Here every factor becomes m·R + (1 − m)·I as in
LyCORIS' BOFT, and s becomes 1 + m·(s − 1), so that m = 0 leaves W unchanged.
Paper: arXiv:2311.06243. Tensor names: PEFT `BOFTLayer`; without its CUDA extension PEFT trains one factor only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.orthogonal import butterfly_delta, cayley_delta, rotate_columns_, skew


@dataclass(frozen=True, eq=False)
class BoftInput(Algorithm):
    """Fits W [o, i, ...] with i*kernel = n·b columns; `rank` is b."""

    label: ClassVar[str] = "BOFT (input)"

    blocks: Tensor  # [m, n, b, b]: B
    scales: Tensor  # [o], float32: s

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"boft_R", "boft_s"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        blocks, scales = tensors["boft_R"], tensors["boft_s"]
        _check(blocks)
        if scales.numel() not in scales.shape:
            raise ShapeMismatch(f"boft_s of {list(scales.shape)} is not a vector")
        return cls(blocks, scales.float().flatten())

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.scales), self.blocks.shape[1] * self.rank)
        if len(shape) < 2 or mine != (shape[0], math.prod(shape[1:])):
            raise ShapeMismatch(f"a rotation of {list(mine)} does not fit a weight of {list(shape)}")

    def delta(self, weight: Tensor) -> Tensor:
        return self.delta_at(weight, 1.0)

    def delta_at(self, weight: Tensor, strength: float) -> Tensor:
        columns, turns = weight.flatten(1), cayley_delta(-0.5 * skew(self.blocks))
        if len(turns) == 1:
            delta = torch.zeros(columns.shape, dtype=torch.float32, device=weight.device)
            rotate_columns_(delta, columns, turns[0].mT, strength)
        else:
            delta = butterfly_delta(columns.T, turns.unbind(), strength, chunk=self.rank // 2).T
        growth = strength * (self.scales - 1.0).unsqueeze(1)
        return delta.mul_(growth + 1.0).addcmul_(columns, growth).reshape(weight.shape)

    @property
    def rank(self) -> int:
        return self.blocks.shape[-1]


def _check(blocks: Tensor) -> None:
    """Raise ShapeMismatch unless the blocks can mix: m > 1 factors need an even block size and k·2ᵐ⁻¹ blocks."""
    if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3]:
        raise ShapeMismatch(f"boft_R needs axes [factors, blocks, b, b], not {list(blocks.shape)}")
    factors, n, size, _ = blocks.shape
    if factors > 1 and (size % 2 or n.bit_length() < factors or n % 2 ** (factors - 1)):
        wanted = f"blocks of an even size, and a multiple of 2^{factors - 1} of them"
        raise ShapeMismatch(f"BOFT of {factors} factors needs {wanted}, not {list(blocks.shape)}")
