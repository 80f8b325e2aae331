"""BOFT: W' = Fₘ ⋯ F₁·W, butterfly factors over the output rows; R·x here, not Rᵀ·x as in Diag-OFT.

Strength turns every factor into m·Rᵢ + (1 − m)·I, as the trainer does, and leaves `rescale` whole.
Paper: arXiv:2311.06243. Leaf names: LyCORIS `ButterflyOFTModule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, shape_mismatch
from lib_adapters.algorithms.oft import bound_of, check_rescale, check_square
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.orthogonal import butterfly_delta, cayley_delta, clip_norm, skew


@dataclass(frozen=True, eq=False)
class Boft(Algorithm):
    """Fits W [o, i, ...] with o = n·b rows; `rank` is b. LyCORIS from 2.1 on."""

    label: ClassVar[str] = "BOFT"

    blocks: Tensor  # [m, n, b, b]: B, or R itself
    bound: float  # the largest ‖Q‖ over all blocks of all factors; infinite for none
    rescale: Tensor | None = None  # [o, 1, ...]
    is_rotation: bool = False  # R is stored: the week before 2024-02-12
    turns_bias: bool = False  # LyCORIS in bypass mode turned the layer's output

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        old = len(shapes.get("oft_diag", ())) == 4 and shapes.keys() <= {"oft_diag", "alpha"}
        new = len(shapes.get("oft_blocks", ())) == 4 and shapes.keys() <= {"oft_blocks", "alpha", "rescale"}
        return old or new

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        old = "oft_diag" in tensors
        blocks, rescale = tensors["oft_diag" if old else "oft_blocks"], tensors.get("rescale")
        check_square(blocks)
        _check_butterfly(blocks)
        out = blocks.shape[1] * blocks.shape[2]
        check_rescale(rescale, out)
        return cls(blocks, bound_of(tensors, out), rescale, old, info.bypass_mode)

    def check_shape(self, shape: Shape) -> None:
        out = self.blocks.shape[1] * self.blocks.shape[2]
        if len(shape) < 2 or shape[0] != out:
            raise shape_mismatch((out, *shape[1:]), shape)

    def delta(self, weight: Tensor) -> Tensor:
        return self.delta_at(weight, 1.0)

    def delta_at(self, weight: Tensor, strength: float) -> Tensor:
        delta = butterfly_delta(weight.flatten(1), self._turns().unbind(), strength)
        if self.rescale is not None:
            rows = self.rescale.float().view(-1, 1)
            delta.mul_(rows).addcmul_(weight.flatten(1), rows - 1.0)
        return delta.view(weight.shape)

    @property
    def has_bias(self) -> bool:
        return self.turns_bias

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        return self.delta(bias.unsqueeze(1)).squeeze(1) if self.turns_bias else None

    def _turns(self) -> Tensor:
        if self.is_rotation:
            return self.blocks.float() - torch.eye(self.rank, dtype=torch.float32, device=self.blocks.device)
        return cayley_delta(clip_norm(skew(self.blocks), self.bound))

    @property
    def rank(self) -> int:
        return self.blocks.shape[-1]


def _check_butterfly(blocks: Tensor) -> None:
    """With n = 2ᵖ blocks of an even size there are p + 1 factors."""
    factors, n, size, _ = blocks.shape
    if size % 2 or n & (n - 1) or factors != n.bit_length():
        wanted = "an even block size, a power of two of blocks and one factor per power"
        raise ShapeMismatch(f"BOFT needs {wanted}, not {list(blocks.shape)}")
