"""ABBA: ΔW = scale · (up1 @ down1) ⊙ (up2 @ down2), scale = alpha²/sqrt(r1·r2).

Paper: arXiv:2505.14238. Leaf names: the 67372a fork of LyCORIS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Facts, Leaves, Shape, Shapes, computable, mismatch, number
from lib_adapters.algorithms.factored import Factored, check_pair, fits_columns
from lib_adapters.ops.hadamard import Hadamard
from lib_adapters.ops.product import Product

LEAVES = {"lora_up1.weight", "lora_down1.weight", "lora_up2.weight", "lora_down2.weight"}


@dataclass(frozen=True, eq=False)
class Abba(Factored):
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
    def from_leaves(cls, leaves: Leaves, facts: Facts) -> Self:
        up1, down1 = leaves["lora_up1.weight"], leaves["lora_down1.weight"]
        up2, down2 = leaves["lora_up2.weight"], leaves["lora_down2.weight"]
        check_pair(up1, down1, "lora_up1 and lora_down1")
        check_pair(up2, down2, "lora_up2 and lora_down2")
        return cls(up1, down1, up2, down2, _scale(leaves, len(down1) * len(down2), facts))

    def check(self, shape: Shape) -> None:
        for up, down in (self.up1, self.down1), (self.up2, self.down2):
            mine = (len(up), *down.shape[1:])
            if not shape or mine[0] != shape[0] or not fits_columns(mine, shape):
                raise mismatch(mine, shape)

    def product(self, shape: Shape) -> Product:
        first = self.up1.flatten(1), self.down1.flatten(1)
        return Hadamard(first, (self.up2.flatten(1), self.down2.flatten(1)), self.scale)

    @property
    def rank(self) -> int:
        return len(self.down1) + len(self.down2)


def _scale(leaves: Leaves, ranks: int, facts: Facts) -> float:
    if facts.given_scale is not None:
        return computable(facts.given_scale)
    return computable(number(leaves["alpha"]) ** 2 / math.sqrt(ranks)) if "alpha" in leaves else 1.0
