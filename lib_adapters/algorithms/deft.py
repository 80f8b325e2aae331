"""DEFT: replaces a subspace of W's output, ΔW = P·(s·R − Nᵀ·W), N = relu(P); with "qr" P and N are both qr(P)'s Q.

Without R it is PaRa, which only removes: ΔW = −P·Nᵀ·W. s is alpha/r if PEFT's config has an alpha, else 1. The
decomposition is not in the file but in the override `deft_qr` (from PEFT's config, or set by the user).
Paper: DEFT, NeurIPS 2025. Tensor names: PEFT `DeftLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    LowRankFactors,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    same_up_to_1x1,
    scale_of,
    shape_mismatch,
)
from lib_adapters.algorithms.low_rank import LowRankOfWeight
from lib_adapters.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class Deft(LowRankOfWeight):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]; i is unknown for PaRa."""

    label: ClassVar[str] = "DEFT"

    directions: Tensor  # [o, r]: P
    injected: Tensor | None  # [r, i]: R
    scale: float
    orthogonal: bool  # decomposition_method "qr"

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return "deft_P" in shapes and shapes.keys() <= {"deft_P", "deft_R", "alpha"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        directions, injected = tensors["deft_P"], tensors.get("deft_R")
        if directions.ndim != 2 or directions.shape[0] < directions.shape[1]:
            raise ShapeMismatch(f"deft_P needs one column per direction, not {list(directions.shape)}")
        if injected is not None and (injected.ndim != 2 or len(injected) != directions.shape[1]):
            shapes = f"{list(directions.shape)} and {list(injected.shape)}"
            raise ShapeMismatch(f"the factors deft_P and deft_R of {shapes} do not fit each other")
        scale = scale_of(tensors, directions.shape[1], info)
        return cls(directions, injected, scale, bool((info.overrides or {}).get("deft_qr")))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.directions), *(shape[1:2] if self.injected is None else self.injected.shape[1:]))
        if len(shape) < 2 or not same_up_to_1x1(mine, shape):
            raise shape_mismatch(mine, shape)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        up = self.directions.float()
        up = torch.linalg.qr(up)[0] if self.orthogonal else up
        down = (up if self.orthogonal else up.relu()).T @ weight.flatten(1)
        if self.injected is not None:
            down = down.sub_(self.injected.float(), alpha=self.scale)
        return LowRankFactors(up, down, -1.0)

    @property
    def rank(self) -> int:
        return self.directions.shape[1]

    def truncate(self, rank: int) -> Self:
        if not 0 < rank < self.rank:
            return self
        injected = None if self.injected is None else self.injected[:rank]
        return replace(self, directions=self.directions[:, :rank], injected=injected)
