"""OFTv2: the input of a layer is rotated, R = I + 2Q + 2Q² + 2Q³ + Q⁴ with Q packed as its upper triangle.

A linear layer is W' = W·Rᵀ for both trainers; OneTrainer's convolutions are W' = flat(W)·R.
Paper: arXiv:2506.19847. Leaf names: PEFT `OFTRotationModule`, OneTrainer `OFTModule`.
Not in the file, but in PEFT's config: `use_cayley_neumann: false` (the exact form, transposed), the number of terms,
2Q⁴ as the last term (before PEFT 0.18) and the bound of COFT; the overrides `use_cayley_neumann`, `neumann_terms`,
`neumann_last_term` and `rotation_bound` say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.orthogonal import (
    cayley_delta,
    clip_norm_per_block,
    neumann_delta,
    rotate_columns_,
    skew_from_upper,
)

MAX_TERMS = 64  # of the series: by then it has converged or it diverges


@dataclass(frozen=True, eq=False)
class OftInput(Algorithm):
    """Fits W [o, i, ...] whose i*kernel columns are n blocks of b; PEFT's (from 0.16 on) fits no kernel above 1x1."""

    label: ClassVar[str] = "OFT (input)"

    packed: Tensor  # [n, b(b−1)/2]; one row where all blocks share it
    size: int  # b
    divisor: float  # OneTrainer's "scaled" OFT trains packed values 2√(b−1) times too large
    by_peft: bool
    exact: bool
    last_term: float  # factor of the highest power
    highest: int = 4  # the highest power of Q
    bound: float = math.inf  # of the Frobenius norm of each block's Q

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return "oft_R.weight" in shapes and shapes.keys() <= {"oft_R.weight", "oft_R.scaled_oft", "alpha"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        packed, overrides = tensors["oft_R.weight"], info.overrides or {}
        size = _block_size(packed.shape)
        divisor = 2.0 * math.sqrt(size - 1) if "oft_R.scaled_oft" in tensors else 1.0
        exact = overrides.get("use_cayley_neumann", 1.0) == 0
        by_peft = info.producer in ("peft", "diffusers")
        bound = overrides.get("rotation_bound", math.inf) / math.sqrt(len(packed))
        return cls(packed, size, divisor, by_peft, exact, *_series(overrides), bound)

    def check_shape(self, shape: Shape) -> None:
        columns, rows = math.prod(shape[1:]), len(self.packed)
        if columns % self.size or rows not in {1, columns // self.size}:
            mine = f"{rows} input rotations of {self.size} columns"
            raise ShapeMismatch(f"{mine} do not fit a weight of {list(shape)}, which has {columns}")
        if self.by_peft and any(k > 1 for k in shape[2:]):
            what = f"PEFT's OFT {list(self.packed.shape)} on a convolution {list(shape)}"
            raise ShapeMismatch(f"{what} rotates overlapping patches, which no change of the weight can do")

    def delta(self, weight: Tensor) -> Tensor:
        out = weight.new_zeros(weight.shape)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        turn = self._turn(transposed=self.by_peft or weight.ndim == 2)
        blocks = math.prod(weight.shape[1:]) // self.size
        rotate_columns_(out, weight, turn.expand(blocks, -1, -1), strength)

    def _turn(self, transposed: bool) -> Tensor:
        """R − I or Rᵀ − I, [n, b, b]: −Q transposes every form."""
        q = skew_from_upper(self.packed, self.size) / self.divisor
        q = -q if transposed != self.exact else q
        q = clip_norm_per_block(q, self.bound) if math.isfinite(self.bound) else q
        return cayley_delta(q) if self.exact else neumann_delta(q, self.last_term, self.highest)

    @property
    def rank(self) -> int:
        return self.size


def _series(overrides: Mapping[str, float]) -> tuple[float, int]:
    """Return (factor of the highest power, that power). PEFT since 0.18 never stops at Q²: three terms become four."""
    last, terms = overrides.get("neumann_last_term", 1.0), int(min(overrides.get("neumann_terms", 5), MAX_TERMS))
    if terms < 3 or last == 2.0:
        return 2.0, terms - 1
    return last, max(terms - 1, 3)


def _block_size(packed: Shape) -> int:
    """b of b(b−1)/2 packed values."""
    values = packed[1] if len(packed) == 2 else 0
    size = (1 + math.isqrt(1 + 8 * values)) // 2
    if not values or not packed[0] or size * (size - 1) // 2 != values:
        raise ShapeMismatch(f"packed rotations of {list(packed)} are no rows of b(b−1)/2 values")
    return size
