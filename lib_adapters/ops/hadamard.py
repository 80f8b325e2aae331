"""Products of two low-rank matrices, entry by entry (LoHa, ABBA), in row blocks that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.ops.lazy_delta import rows_per_block


class Hadamard:
    """scale · (up1 @ down1) ⊙ (up2 @ down2): ups [o, r], downs [r, i*kernel]."""

    def __init__(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], scale: float) -> None:
        self.up1, self.down1 = (t.float() for t in first)
        self.up2, self.down2 = (t.float() for t in second)
        self.scale = scale

    def add(self, out: Tensor, strength: float) -> None:
        self._sum(out, out, strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        """base + strength · ΔW, each block of rows once through the cache."""
        out = torch.empty_like(weight) if out is None else out
        self._sum(weight, out, strength)
        return out

    def _sum(self, base: Tensor, out: Tensor, strength: float) -> None:
        step = min(len(out), rows_per_block(out))
        scratch = self.down1.new_empty(2, step, self.down1.shape[1])
        for start in range(0, len(out), step):
            before, block = base[start : start + step], out[start : start + step]
            left, right = scratch[0, : len(block)], scratch[1, : len(block)]
            torch.mm(self.up1[start : start + step], self.down1, out=left)
            torch.mm(self.up2[start : start + step], self.down2, out=right)
            factors = left.view(block.shape), right.view(block.shape)
            torch.addcmul(before, *factors, value=self.scale * strength, out=block)

    def rows(self, start: int, stop: int) -> Self:
        return type(self)((self.up1[start:stop], self.down1), (self.up2[start:stop], self.down2), self.scale)
