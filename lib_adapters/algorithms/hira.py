"""HiRA: W is multiplied elementwise, ΔW = W ⊙ (B·A).

Paper: "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation", ICLR 2025. Tensor names: PEFT `HiraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Facts, Leaves, Shape, Shapes, mismatch
from lib_adapters.algorithms.factored import check_pair, fits_columns
from lib_adapters.ops.product import row_step


@dataclass(frozen=True, eq=False)
class Hira(Algorithm):
    """Fits W [o, i, ...]; has no alpha."""

    label: ClassVar[str] = "HiRA"

    up: Tensor  # [o, r], or [o, r, 1, 1] on a convolution: B
    down: Tensor  # [r, i, ...]: A

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"hira_A", "hira_B"}

    @classmethod
    def from_leaves(cls, leaves: Leaves, facts: Facts) -> Self:
        check_pair(leaves["hira_B"], leaves["hira_A"], "hira_B and hira_A")
        return cls(leaves["hira_B"], leaves["hira_A"])

    def check(self, shape: Shape) -> None:
        mine = (len(self.up), *self.down.shape[1:])
        if not shape or mine[0] != shape[0] or not fits_columns(mine, shape):
            raise mismatch(mine, shape)

    def delta(self, base: Tensor) -> Tensor:
        out = torch.zeros(base.shape, dtype=torch.float32, device=base.device)
        self.add(out, base, 1.0)
        return out

    def add(self, out: Tensor, base: Tensor, strength: float) -> None:
        up, down, step = self.up.flatten(1).float(), self.down.flatten(1).float(), row_step(base)
        for rows in (slice(start, start + step) for start in range(0, len(base), step)):
            factors = (up[rows] @ down).view(base[rows].shape)
            out[rows].addcmul_(base[rows], factors, value=strength)

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncated(self, rank: int) -> Self:
        return replace(self, up=self.up[:, :rank], down=self.down[:rank]) if 0 < rank < self.rank else self
