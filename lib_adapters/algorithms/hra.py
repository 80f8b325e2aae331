"""HRA: W' = W·H₁⋯Hᵣ over the flattened input, reflections H = I − 2uuᵀ/‖u‖².

With PEFT's `apply_GS` the vectors are first orthonormalised (Gram-Schmidt): W' = W·(I − 2QQᵀ). This is not in the file
but in the override `hra_apply_gs` (from PEFT's config, or set by the user). The strength scales ΔW; PEFT has none.
Paper: arXiv:2405.17484. Tensor name: PEFT `HRALayer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import LowRankFactors, Shape, Shapes, Tensors, TrainingInfo, check_count
from lib_adapters.algorithms.low_rank import LowRankOfWeight
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.orthogonal import reflections


@dataclass(frozen=True, eq=False)
class Hra(LowRankOfWeight):
    """Fits W [o, i, ...] with i*kernel columns and any number of rows."""

    label: ClassVar[str] = "HRA"

    vectors: Tensor  # [i*kernel, r]: u in columns
    orthogonal: bool  # apply_GS

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"hra_u"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        vectors, orthogonal = tensors["hra_u"], bool((info.overrides or {}).get("hra_apply_gs"))
        if vectors.ndim != 2 or (orthogonal and vectors.shape[0] < vectors.shape[1]):
            raise ShapeMismatch(f"hra_u needs one column per reflection, not {list(vectors.shape)}")
        check_count(vectors.shape[1] ** 2, "HRA's products of reflections")
        return cls(vectors, orthogonal)

    def check_shape(self, shape: Shape) -> None:
        if len(shape) < 2 or math.prod(shape[1:]) != len(self.vectors):
            raise ShapeMismatch(f"reflections of {list(self.vectors.shape)} do not fit a weight of {list(shape)}")

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        if self.orthogonal:
            vectors = torch.linalg.qr(self.vectors.float())[0]
            return LowRankFactors(weight.flatten(1) @ vectors, vectors.T, -2.0)
        vectors, inner = reflections(self.vectors)
        return LowRankFactors(weight.flatten(1) @ vectors @ inner, vectors.T, -1.0)

    @property
    def rank(self) -> int:
        return self.vectors.shape[1]

    def truncate(self, rank: int) -> Self:
        """Keep only the first reflections."""
        return replace(self, vectors=self.vectors[:, :rank]) if 0 < rank < self.rank else self
