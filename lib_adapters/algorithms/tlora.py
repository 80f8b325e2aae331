"""T-LoRA: ΔW = scale · (P·diag(λ)·Q − P₀·diag(λ₀)·Q₀), at full rank as for the last, least noisy steps.

P₀, λ₀, Q₀ are what training started from: the top-r singular triple of W. Forks store it; LyCORIS does not, so it is
taken from the pristine W again. LyCORIS also offers the last or middle triple (`sig_type`) and stores neither that
choice nor a random start; the default, principal, is taken.
Paper: arXiv:2507.05964. Leaf names: LyCORIS `TLoraModule`.
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
from lib_adapters.ops.orthogonal import top_singular_factors

TRIPLE = ("p_layer.weight", "lambda_layer", "q_layer.weight")
START = ("base_p", "base_lambda", "base_q")


@dataclass(frozen=True, eq=False)
class TLora(LowRankOfWeight):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]. LyCORIS from 4.0.0 on, and forks."""

    label: ClassVar[str] = "T-LoRA"

    p: Tensor  # [o, r] or [o, r, 1, 1]
    weights: Tensor  # [1, r]: λ
    q: Tensor  # [r, i] or [r, i, 1, 1]
    scale: float
    start_p: Tensor | None = None  # as p
    start_weights: Tensor | None = None
    start_q: Tensor | None = None

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= set(TRIPLE) and shapes.keys() <= {*TRIPLE, *START, "alpha"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        triple = [tensors[name] for name in TRIPLE]
        _check_triple(*triple)
        scale = scale_of(tensors, len(triple[2]), info)
        if tensors.keys().isdisjoint(START):
            return cls(triple[0], triple[1], triple[2], scale)
        start = [tensors[name] for name in START if name in tensors]
        if [s.shape for s in start] != [t.shape for t in triple]:
            raise ShapeMismatch("the starting values of T-LoRA are incomplete or of other shapes than the trained ones")
        return cls(triple[0], triple[1], triple[2], scale, *start)

    def check_shape(self, shape: Shape) -> None:
        if any(k > 1 for k in shape[2:]):
            raise ShapeMismatch(
                f"T-LoRA of {self._matrix} on a convolution {list(shape)} is no change of its weight: only 1x1 is"
            )
        if not same_up_to_1x1(self._matrix, shape):
            raise shape_mismatch(self._matrix, shape)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        if self.start_p is None or self.start_weights is None or self.start_q is None:
            up, down = top_singular_factors(weight.flatten(1), self.rank)
        else:
            up, down = _pair(self.start_p, self.start_weights, self.start_q)
        mine = _pair(self.p, self.weights, self.q)
        return LowRankFactors(torch.cat((mine[0], -up), 1), torch.cat((mine[1], down)), self.scale)

    def precompute(self, weight: Tensor) -> Self:
        """The singular triple of W takes a second for a large layer."""
        if self.start_p is not None:
            return self
        up, down = top_singular_factors(weight.flatten(1).float(), self.rank)
        ones = torch.ones(1, self.rank, dtype=torch.float32, device=up.device)
        return replace(self, start_p=up, start_weights=ones, start_q=down)

    @property
    def rank(self) -> int:
        return self.weights.shape[1]

    def truncate(self, rank: int) -> Self:
        """The trainer's own mask at earlier steps: the first components of both triples, alpha/r as it was."""
        if not 0 < rank < self.rank:
            return self
        start = None if self.start_weights is None else self.start_weights[:, :rank]
        return replace(self, weights=self.weights[:, :rank], start_weights=start)

    @property
    def _matrix(self) -> Shape:
        return (len(self.p), self.q.shape[1])


def _pair(p: Tensor, weights: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """P·diag(λ) [o, r] and Q [r, i], of as many components as λ has."""
    rank = weights.shape[1]
    return p.flatten(1)[:, :rank].float() * weights.float(), q.flatten(1)[:rank].float()


def _check_triple(p: Tensor, weights: Tensor, q: Tensor) -> None:
    units = all(k == 1 for k in (*p.shape[2:], *q.shape[2:]))
    if not units or p.ndim < 2 or q.ndim < 2 or p.shape[1] != len(q) or weights.shape != (1, len(q)):
        shapes = f"{list(p.shape)}, {list(weights.shape)} and {list(q.shape)}"
        raise ShapeMismatch(f"the T-LoRA tensors of {shapes} do not fit each other")
