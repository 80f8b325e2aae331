"""ABBA: ΔW = scale · (up1 @ down1) ⊙ (up2 @ down2), scale = alpha²/sqrt(r1·r2).

Paper: arXiv:2505.14238. Leaf names: the 67372a fork of LyCORIS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Shape, Shapes, Tensors, TrainingInfo, check_scale, shape_mismatch, to_scalar
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors, input_matches
from lib_adapters.ops.hadamard import Hadamard
from lib_adapters.ops.lazy_delta import LazyDelta

LEAVES = {"lora_up1.weight", "lora_down1.weight", "lora_up2.weight", "lora_down2.weight"}


@dataclass(frozen=True, eq=False)
class Abba(AdditiveAlgorithm):
    """Fits W [o, i, ...]. The pairs have ranks of their own, r1 and r2; `rank` is their sum."""

    label: ClassVar[str] = "ABBA"

    up1: Tensor  # [o, r1]
    down1: Tensor  # [r1, i, ...]
    up2: Tensor  # [o, r2]
    down2: Tensor  # [r2, i, ...]
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= LEAVES and "dora_scale" not in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        up1, down1 = tensors["lora_up1.weight"], tensors["lora_down1.weight"]
        up2, down2 = tensors["lora_up2.weight"], tensors["lora_down2.weight"]
        check_factors(up1, down1, "lora_up1 and lora_down1")
        check_factors(up2, down2, "lora_up2 and lora_down2")
        return cls(up1, down1, up2, down2, _scale(tensors, len(down1) * len(down2), info))

    def check_shape(self, shape: Shape) -> None:
        for up, down in (self.up1, self.down1), (self.up2, self.down2):
            mine = (len(up), *down.shape[1:])
            if not shape or mine[0] != shape[0] or not input_matches(mine, shape):
                raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        first = self.up1.flatten(1), self.down1.flatten(1)
        return Hadamard(first, (self.up2.flatten(1), self.down2.flatten(1)), self.scale)

    @property
    def rank(self) -> int:
        return len(self.down1) + len(self.down2)


def _scale(leaves: Tensors, ranks: int, facts: TrainingInfo) -> float:
    if facts.scale_override is not None:
        return check_scale(facts.scale_override)
    return check_scale(to_scalar(leaves["alpha"]) ** 2 / math.sqrt(ranks)) if "alpha" in leaves else 1.0
