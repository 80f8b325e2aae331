"""RandLora: ΔW = alpha/r · Σₙ Bₙ · diag(λₙ) · A · diag(γₙ), n bases of rank r, together of full rank.

A [r, min(o, i)] and Bₙ [max(o, i), r] are random and shared by all layers: each uses the first rows and columns of a
pair as large as the largest layer; if W has more columns than rows, the sum is transposed. PEFT flattens A by rank and
basis but B by basis and rank, so the two are mismatched; this is what was trained.
A file saved with `save_projection: false` lacks the pair, which is then generated from `projection_prng_key`, with the
sizes of this model's layers, and in bfloat16 (PEFT uses float16, and so other numbers, on a training device without
bfloat16). It may also differ between torch releases.
Paper: arXiv:2502.00987. Tensor names: PEFT `RandLoraLayer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    LayerGroup,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    check_count,
    rng_seed,
    shape_mismatch,
    to_scalar,
)
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_group, require_projections, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul
from lib_adapters.ops.seeded_random import generator, kaiming_bound, uniform

TRAINED, PAIR = {"randlora_lambda", "randlora_gamma"}, {"randlora_A", "randlora_B"}
SEED, SPARSE = "projection_prng_key", "randlora_sparse"  # sparse: 0 dense, 1 a third, 2 a share that shrinks with size


@dataclass(frozen=True, eq=False)
class RandLora(AdditiveAlgorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]. Its product is of full rank."""

    label: ClassVar[str] = "RandLora"

    weights: Tensor  # [r, n]: λ
    columns: Tensor  # [n, min(o, i)]: γ
    a: Tensor | None  # [r, 1, at least min(o, i)]; None until it is generated
    b: Tensor | None  # [at least max(o, i), at least n, r]
    seed: int
    sparse: float
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        known = TRAINED | PAIR | {SEED, SPARSE, "alpha", "scale"}
        scaled = "alpha" in shapes or "scale" in shapes
        drawn = shapes.keys() >= PAIR or shapes.keys() >= {SEED, SPARSE}
        return TRAINED <= shapes.keys() <= known and scaled and drawn

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        weights, columns = tensors["randlora_lambda"], tensors["randlora_gamma"]
        a, b = tensors.get("randlora_A"), tensors.get("randlora_B")
        if weights.ndim != 2 or columns.ndim != 2:
            raise ShapeMismatch("randlora_lambda and randlora_gamma should be matrices")
        rank, bases = weights.shape
        if len(columns) != bases:
            raise ShapeMismatch(
                f"randlora_lambda of {list(weights.shape)} and randlora_gamma of {list(columns.shape)} do not fit"
            )
        scale = total_scale(tensors, rank, info)
        if a is None or b is None:
            return cls(weights, columns, None, None, rng_seed(tensors[SEED]), to_scalar(tensors[SPARSE]), scale)
        if a.shape[:-1] != (rank, 1) or a.shape[-1] < columns.shape[1] or not _fits(b, rank, bases):
            raise ShapeMismatch(
                f"randlora_A of {list(a.shape)} and randlora_B of {list(b.shape)} do not fit "
                f"{bases} bases of rank {rank} with {columns.shape[1]} columns"
            )
        return cls(weights, columns, a, b, 0, 0, scale)

    def check_shape(self, shape: Shape) -> None:
        plain = len(shape) > 1 and all(k == 1 for k in shape[2:])
        if not plain or min(shape[:2]) != self.columns.shape[1] or self.bases != math.ceil(min(shape[:2]) / self.rank):
            raise shape_mismatch(self.columns.shape, shape)
        if self.b is not None and max(shape[:2]) > len(self.b):
            raise shape_mismatch((len(self.b), self.columns.shape[1]), shape)

    def in_group(self, shape: Shape, group: LayerGroup) -> Self:
        """Return a copy with the pair that PEFT generates for this group of layers and that they share."""
        if self.a is not None:
            return self
        check_group(group, self.label)
        key = "RandLora", self.seed, self.sparse, self.rank, group.largest, self.weights.device
        a, b = group.once(key, lambda: self._pair(*group.largest))
        return replace(self, a=a, b=b)

    def _pair(self, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        a, b = _drawn(self.rank, outputs, inputs, self.seed, self.sparse)
        return a.to(self.weights.device), b.to(self.weights.device)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        a, b = require_projections(self.a, self.b, self.label)
        small, large = sorted(shape[:2])
        inner = self.weights.float().unsqueeze(2) * a[:, :, :small].float() * self.columns.float()
        outer = b[:large, : self.bases].flatten(1).float()  # [large, n·r]
        inner = inner.flatten(0, 1)  # [r·n, small]
        return Matmul(outer, inner, self.scale) if small == shape[1] else Matmul(inner.T, outer.T, self.scale)

    @property
    def bases(self) -> int:
        """The number of bases n = min(o, i) / r, rounded up."""
        return self.weights.shape[1]

    @property
    def rank(self) -> int:
        return len(self.weights)


def _fits(b: Tensor, rank: int, bases: int) -> bool:
    return b.ndim == 3 and b.shape[1] >= bases and b.shape[2] == rank


def _drawn(rank: int, outputs: int, inputs: int, seed: int, sparse: float) -> tuple[Tensor, Tensor]:
    """Return A [r, 1, small] and B [large, n, r] as `RandLoraModel` generates them for layers up to these sizes."""
    small, large = sorted((outputs, inputs))
    bases, numbers = math.ceil(small / rank), generator(seed)
    check_count(large * bases * rank, "RandLora's random projections")
    if sparse:
        every = math.sqrt(small) if sparse > 1 else 3
        sizes = (rank, 1, small), (large, bases, rank)
        parts = [torch.rand(size, generator=numbers, dtype=torch.float32, device="cpu") for size in sizes]
        a, b = (_signs(part, 1 / (2 * every)) for part in parts)
    else:
        a = _kaiming((rank, 1, small), numbers)
        b = torch.cat([_kaiming((large, 1, rank), numbers) for _ in range(bases)], dim=1)
    return a / a.std(), b / b.std()


def _signs(values: Tensor, share: float) -> Tensor:
    """Return -1 for values in [0, share), 1 for values in (1 - share, 1], and 0 otherwise."""
    signs = torch.zeros_like(values)
    signs[values < share] = -1
    signs[values > 1 - share] = 1
    return signs


def _kaiming(shape: Shape, numbers: torch.Generator) -> Tensor:
    fan_in = math.prod(shape[1:])
    return uniform(shape, kaiming_bound(fan_in, math.sqrt(5)), numbers, torch.bfloat16)
