"""Norm: offsets on weight and bias of LayerNorm, GroupNorm and RMSNorm. Leaf names: LyCORIS `NormModule`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import Self

from lib_adapters.algorithms.base import Shapes, Tensors, TrainingInfo
from lib_adapters.algorithms.full import Full


@dataclass(frozen=True, eq=False)
class Norm(Full):
    """The same arithmetic as Full on [d] instead of [o, i, ...]."""

    label: ClassVar[str] = "Norm"

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return "w_norm" in shapes or "b_norm" in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        return cls(tensors.get("w_norm"), tensors.get("b_norm"))
