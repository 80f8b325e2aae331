"""VeRA: ΔW = diag(λ_b) · B · diag(λ_d) · A with random A and B that all layers share.

A [r, i] and B [o, r] are the first columns and rows of one pair that is as large as the largest trained layer. A file
saved with `save_projection: false` lacks the pair, which is then generated from `projection_prng_key`, A first, with
the sizes of this model's layers. PEFT warns that it may differ between systems; it may also between torch releases.
Paper: arXiv:2310.11454. Tensor names: PEFT `VeraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    LayerGroup,
    LowRankFactors,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    check_count,
    rng_seed,
    shape_mismatch,
)
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_group, require_projections, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul
from lib_adapters.ops.seeded_random import generator, kaiming_bound, uniform

SCALES, PAIR, SEED = {"vera_lambda_b", "vera_lambda_d"}, {"vera_A", "vera_B"}, "projection_prng_key"


@dataclass(frozen=True, eq=False)
class Vera(AdditiveAlgorithm):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]."""

    label: ClassVar[str] = "VeRA"

    outer: Tensor  # [o]: λ_b
    inner: Tensor  # [r]: λ_d
    a: Tensor | None  # [r, at least i]; None until it is generated
    b: Tensor | None  # [at least o, r]
    seed: int
    scale: float = 1.0

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        known = SCALES | PAIR | {SEED, "alpha", "scale"}
        return SCALES <= shapes.keys() <= known and (shapes.keys() >= PAIR or SEED in shapes)

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        outer, inner = tensors["vera_lambda_b"], tensors["vera_lambda_d"]
        a, b = tensors.get("vera_A"), tensors.get("vera_B")
        if outer.ndim != 1 or inner.ndim != 1:
            raise ShapeMismatch("vera_lambda_b and vera_lambda_d should be vectors")
        if a is None or b is None:
            return cls(outer, inner, None, None, rng_seed(tensors[SEED]), total_scale(tensors, len(inner), info))
        if a.ndim != 2 or b.ndim != 2 or len(a) != len(inner) or b.shape[1] != len(inner) or len(b) < len(outer):
            raise ShapeMismatch(
                f"vera_A of {list(a.shape)} and vera_B of {list(b.shape)} do not fit vectors of "
                f"[{len(outer)}] and [{len(inner)}]"
            )
        return cls(outer, inner, a, b, 0, total_scale(tensors, len(inner), info))

    def check_shape(self, shape: Shape) -> None:
        plain = len(shape) > 1 and all(k == 1 for k in shape[2:])
        if not plain or shape[0] != len(self.outer) or (self.a is not None and shape[1] > self.a.shape[1]):
            raise shape_mismatch((len(self.outer), *(() if self.a is None else self.a.shape[1:])), shape)

    def in_group(self, shape: Shape, group: LayerGroup) -> Self:
        """Return a copy with the pair that PEFT generates for this group of layers and that they share."""
        if self.a is not None:
            return self
        check_group(group, self.label)
        key = "VeRA", self.seed, self.rank, group.largest, self.outer.device
        a, b = group.once(key, lambda: self._pair(*group.largest))
        return replace(self, a=a, b=b)

    def _pair(self, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        a, b = _drawn(self.seed, self.rank, outputs, inputs)
        return a.to(self.outer.device), b.to(self.outer.device)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        return Matmul(*self._factors(shape), self.scale)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors:
        return LowRankFactors(*self._factors(tuple(weight.shape)), self.scale)

    def _factors(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return up [o, r] and down [r, i]."""
        a, b = require_projections(self.a, self.b, self.label)
        up = self.outer.float().unsqueeze(1) * b[: shape[0]].float()
        return up, self.inner.float().unsqueeze(1) * a[:, : shape[1]].float()

    @property
    def rank(self) -> int:
        return len(self.inner)

    def truncate(self, rank: int) -> Self:
        """Keep the first rows of A and columns of B; a pair that is not yet generated stays whole."""
        if not 0 < rank < self.rank or self.a is None or self.b is None:
            return self
        return replace(self, inner=self.inner[:rank], a=self.a[:rank], b=self.b[:, :rank])


def _drawn(seed: int, rank: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Return A [r, i] and B [o, r] as `VeraModel._init_vera_A_vera_B` generates them."""
    check_count(rank * (outputs + inputs), "VeRA's random projections")
    numbers = generator(seed)
    a = uniform((rank, inputs), kaiming_bound(inputs, 0.0), numbers)
    return a, uniform((outputs, rank), kaiming_bound(rank, 0.0), numbers)
