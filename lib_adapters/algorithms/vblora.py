"""VB-LoRA: ΔW = B · A, both composed of short vectors from one bank [h, l] that all layers share.

Each piece of l numbers is the mean of k vectors, weighted by the softmax of its k largest logits. A file contains all
logits (k is then the config's `topk`), or the indices and weights of the k largest; the last weight is 1 minus their
sum.
Paper: arXiv:2405.15179. Tensor names: PEFT `VBLoRALayer`.
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
    check_count,
    shape_mismatch,
    to_scalar,
)
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, input_matches, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul

BANK, TOPK = "vblora_vector_bank", "vblora_topk"
A, B = "vblora_logits_A", "vblora_logits_B"
PLACES, WEIGHTS = "_topk_indices", "_topk_weights"
WHOLE = {A, B, BANK}
CHOSEN = {BANK, *(f"{side}{what}" for side in (A, B) for what in (PLACES, WEIGHTS))}


@dataclass(frozen=True, eq=False)
class VbLora(AdditiveAlgorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]."""

    label: ClassVar[str] = "VB-LoRA"

    up: Tensor  # [o, r]
    down: Tensor  # [r, i]
    scale: float = 1.0

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        tensors = shapes.keys() - {TOPK, "alpha", "scale"}
        return tensors == CHOSEN or (tensors == WHOLE and TOPK in shapes)

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        bank = tensors[BANK]
        if bank.ndim != 2:
            raise ShapeMismatch(f"{BANK} should be a matrix, not {list(bank.shape)}")
        down, up = _composed(tensors, A, bank), _composed(tensors, B, bank)  # [r, i/l, l] and [o/l, r, l]
        if len(down) != up.shape[1]:
            raise ShapeMismatch(f"{A} is of rank {len(down)} and {B} of rank {up.shape[1]}")
        return cls(up.transpose(1, 2).reshape(-1, len(down)), down.flatten(1), total_scale(tensors, len(down), info))

    def check_shape(self, shape: Shape) -> None:
        mine = (len(self.up), self.down.shape[1])
        if not shape or mine[0] != shape[0] or any(k != 1 for k in shape[2:]) or not input_matches(mine, shape):
            raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        return Matmul(self.up, self.down, self.scale)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        return LowRankFactors(self.up, self.down, self.scale)

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncate(self, rank: int) -> Self:
        return replace(self, up=self.up[:, :rank], down=self.down[:rank]) if 0 < rank < self.rank else self


def _composed(leaves: Tensors, side: str, bank: Tensor) -> Tensor:
    """Return the pieces [..., l] of one factor, each a weighted mean of vectors of the bank."""
    if side in leaves:
        logits, k = leaves[side].float(), to_scalar(leaves[TOPK])
        if logits.ndim != 3 or logits.shape[2] != len(bank) or k not in range(1, len(bank) + 1):
            raise ShapeMismatch(f"{side} of {list(logits.shape)} cannot select {k:g} of a bank of {list(bank.shape)}")
        highest, places = logits.topk(int(k), dim=-1)
        weights = highest.softmax(dim=-1)
    else:
        places, first = leaves[f"{side}{PLACES}"].long(), leaves[f"{side}{WEIGHTS}"].float()
        alike = places.ndim == 3 and first.shape == (*places.shape[:2], places.shape[2] - 1)
        if not alike or not bool(((places >= 0) & (places < len(bank))).all()):
            raise ShapeMismatch(
                f"{side}{PLACES} of {list(places.shape)} and weights of {list(first.shape)} do not fit each other "
                f"and a bank of {list(bank.shape)}"
            )
        weights = torch.cat((first, 1 - first.sum(-1, keepdim=True)), dim=-1)
    check_count(places.numel() * bank.shape[1], f"{side}'s vectors")
    return (weights.unsqueeze(-1) * bank.float()[places]).sum(-2)
