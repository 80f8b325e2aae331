"""LN tuning: the file contains the full trained weight and bias of a norm, W' = w, so ΔW = w − W, Δb = b' − b.

PEFT copies the layer and trains the copy; it may be any layer with a weight, not only a norm. Strength m interpolates
linearly between the two.
Paper: arXiv:2312.11420. Tensor names: PEFT `LNTuningLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Facts, Leaves, Shape, Shapes, mismatch, same_layer
from lib_adapters.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class LnTuning(Algorithm):
    """Fits W of the same shape, [d] for norms."""

    label: ClassVar[str] = "LN tuning"

    weight: Tensor  # shaped like W
    bias: Tensor | None  # [o], or [d] for norms

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        leaves = {"ln_tuning_layers.weight", "ln_tuning_layers.bias"}
        return "ln_tuning_layers.weight" in shapes and shapes.keys() <= leaves

    @classmethod
    def from_leaves(cls, leaves: Leaves, facts: Facts) -> Self:
        return cls(leaves["ln_tuning_layers.weight"], leaves.get("ln_tuning_layers.bias"))

    def check(self, shape: Shape) -> None:
        if not same_layer(self.weight.shape, shape):
            raise mismatch(self.weight.shape, shape)
        if self.bias is not None and self.bias.shape != shape[:1]:
            raise ShapeMismatch(f"a bias of {list(self.bias.shape)} does not fit a weight of {list(shape)}")

    def delta(self, base: Tensor) -> Tensor:
        return self.weight.float().view(base.shape) - base

    def onto(self, base: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        """Interpolate with `lerp`, which returns the stored weight exactly at strength 1; W + (w − W) would round."""
        merged: Tensor = torch.lerp(base, self.weight.float().view(base.shape), strength, out=out)
        return merged

    @property
    def has_bias(self) -> bool:
        return self.bias is not None

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.float() - bias
