"""Whole weights: the file contains W' and b' themselves, not their changes, so ΔW = W' − W.

PEFT saves `modules_to_save` (norms, conv_in, ...) and the biases of `bias="all"` and `bias="lora_only"` in this way;
ComfyUI's `set_weight` is the same. PEFT trains the adapter on top of its biases, so an adapter that changes a bias is
computed from b'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    Algorithm,
    LayerGroup,
    LowRankFactors,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    same_up_to_1x1,
    shape_mismatch,
)
from lib_adapters.errors import ShapeMismatch

WEIGHT, BIAS = "set_weight", "set_bias"


@dataclass(frozen=True, eq=False)
class ReplacementWeight(Algorithm):
    """W' and b', either of which may be missing; the strength interpolates between the original values and these."""

    label: ClassVar[str] = "Whole weight"

    weight: Tensor | None  # shaped like W
    bias: Tensor | None  # [o]

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return bool(shapes) and shapes.keys() <= {WEIGHT, BIAS}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        return cls(tensors.get(WEIGHT), tensors.get(BIAS))

    def check_shape(self, shape: Shape) -> None:
        if self.weight is not None and not same_up_to_1x1(tuple(self.weight.shape), shape):
            raise shape_mismatch(self.weight.shape, shape)
        check_bias(self.bias, shape)

    def delta(self, weight: Tensor) -> Tensor:
        if self.weight is None:
            return torch.zeros_like(weight)
        return self.weight.float().reshape(weight.shape) - weight

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        """Interpolate with `lerp`, which returns W' bit for bit at strength 1."""
        out = torch.empty_like(weight) if out is None else out
        if self.weight is None:
            return out.copy_(weight)
        return torch.lerp(weight, self.weight.float().reshape(weight.shape), strength, out=out)

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.float() - bias

    @property
    def has_weight(self) -> bool:
        return self.weight is not None

    @property
    def has_bias(self) -> bool:
        return self.bias is not None


@dataclass(frozen=True, eq=False)
class WithBias(Algorithm):
    """Wraps an algorithm whose file also contains the layer's full trained bias; delegates everything else to it."""

    inner: Algorithm
    bias: Tensor  # [o]

    def check_shape(self, shape: Shape) -> None:
        self.inner.check_shape(shape)
        check_bias(self.bias, shape)

    def delta(self, weight: Tensor) -> Tensor:
        return self.inner.delta(weight)

    def delta_at(self, weight: Tensor, strength: float) -> Tensor:
        return self.inner.delta_at(weight, strength)

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        self.inner.add_delta_(out, weight, strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        return self.inner.merged(weight, strength, out)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        return self.inner.as_low_rank(weight)

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        """Return b' − b plus the algorithm's own bias delta for b'."""
        mine, new = self.bias.float() - bias, self.bias.float().expand_as(bias)
        transaction = self.inner.bias_delta(new)
        return mine if transaction is None else mine + transaction.reshape(mine.shape)

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.inner.label

    @property
    def needs_weight(self) -> bool:  # type: ignore[override]
        return self.inner.needs_weight

    @property
    def has_weight(self) -> bool:
        return self.inner.has_weight

    @property
    def has_bias(self) -> bool:
        return True

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def truncate(self, rank: int) -> Self:
        cut = self.inner.truncate(rank)
        return self if cut is self.inner else replace(self, inner=cut)

    def in_group(self, shape: Shape, group: LayerGroup) -> Self:
        inner = self.inner.in_group(shape, group)
        return self if inner is self.inner else replace(self, inner=inner)

    def precompute(self, weight: Tensor) -> Self:
        settled = self.inner.precompute(weight)
        return self if settled is self.inner else replace(self, inner=settled)

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        """Return False: files/load.py wraps this class around the algorithm of the other tensors."""
        return False

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        raise NotImplementedError


def check_bias(bias: Tensor | None, shape: Shape) -> None:
    """Raise ShapeMismatch unless the bias is None or [o] for a weight [o, ...]."""
    if bias is not None and tuple(bias.shape) != tuple(shape[:1]):
        raise ShapeMismatch(f"a bias of {list(bias.shape)} does not fit a weight of {list(shape)}")
