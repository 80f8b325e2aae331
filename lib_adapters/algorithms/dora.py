"""DoRA on anything additive: W' = V · magnitude / ‖V‖ with V = W + ΔV, so ΔW = W' - W.

Paper: arXiv:2402.09353. Leaf name: LyCORIS `dora_scale`; PEFT's and ai-toolkit's vectors are given the same name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.abba import Abba
from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo
from lib_adapters.algorithms.history import DORA_MEAN
from lib_adapters.algorithms.loha import Loha
from lib_adapters.algorithms.lokr import Lokr
from lib_adapters.algorithms.lora import Lora
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops import weight_decompose as magnitude
from lib_adapters.ops.lazy_delta import LazyDelta


@dataclass(frozen=True, eq=False)
class Dora(Algorithm):
    """One class per algorithm underneath, so that the label tells which.

    ‖V‖ is per row, [o], in PEFT, ai-toolkit and LyCORIS from 3.2.0 on; per column, [i], in LyCORIS before.
    """

    label: ClassVar[str] = "DoRA"
    kind: ClassVar[type[AdditiveAlgorithm]] = Lora

    inner: AdditiveAlgorithm
    magnitude: Tensor  # [o], [o, 1, ...], [1, i, ...] or PEFT's [1, o, 1, 1]
    rows_first: bool  # where both axes would fit, it is the output's
    mean: bool
    plain: bool  # LyCORIS' bypass mode trained `inner` alone, yet saved a magnitude

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        rest = {tensor_name: shape for tensor_name, shape in shapes.items() if tensor_name != "dora_scale"}
        return "dora_scale" in shapes and cls.kind.claims(rest)

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        vector = tensors["dora_scale"]
        if vector.numel() not in vector.shape:
            raise ShapeMismatch(f"a magnitude of {list(vector.shape)} is no vector")
        rows_first = info.producer in ("peft", "diffusers")
        mean = DORA_MEAN[0] <= info.trained_at < DORA_MEAN[1]
        return cls(cls.kind.from_tensors(tensors, info), vector, rows_first, mean, info.bypass_mode)

    def check_shape(self, shape: Shape) -> None:
        self.inner.check_shape(shape)
        self._axis(shape)

    def _axis(self, shape: Shape) -> int:
        mine = self.magnitude.shape
        candidates = [0] if len(mine) == 1 or mine[0] > 1 else ([0, 1] if self.rows_first else [1, 0])
        for axis in candidates:
            if shape[axis] == self.magnitude.numel():
                return axis
        raise ShapeMismatch(f"a magnitude of {list(mine)} does not fit a weight of {list(shape)}")

    def delta(self, weight: Tensor) -> Tensor:
        out = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        if self.plain:
            return self.inner.add_delta_(out, weight, strength)
        product = self.inner.lazy_delta(weight.shape)
        if self._axis(weight.shape) == 0:
            return magnitude.add_row_delta_(out, weight, product, self._vector(), strength)
        magnitude.add_column_delta_(out, weight, product, self._factor(weight, product), strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        if self.plain:
            return self.inner.merged(weight, strength, out)
        out = torch.empty_like(weight) if out is None else out
        product = self.inner.lazy_delta(weight.shape)
        if self._axis(weight.shape) == 0:
            return magnitude.merge_rows(out, weight, product, self._vector(), strength)
        return magnitude.merge_columns(out, weight, product, self._factor(weight, product), strength)

    def _vector(self) -> Tensor:
        return self.magnitude.flatten().float()

    def _factor(self, base: Tensor, product: LazyDelta) -> Tensor:
        norms = magnitude.column_means if self.mean else magnitude.column_norms
        return self._vector() / norms(base, product)

    @property
    def has_bias(self) -> bool:
        return self.inner.has_bias

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        return self.inner.bias_delta(bias)

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def truncate(self, rank: int) -> Self:
        cut = self.inner.truncate(rank)
        return self if cut is self.inner else replace(self, inner=cut)


class Doha(Dora):
    """V = W + ΔV with the ΔV of LoHa (loha.py)."""

    label: ClassVar[str] = "DoHa"
    kind: ClassVar[type[AdditiveAlgorithm]] = Loha


class Dokr(Dora):
    """V = W + ΔV with the ΔV of LoKr (lokr.py)."""

    label: ClassVar[str] = "DoKr"
    kind: ClassVar[type[AdditiveAlgorithm]] = Lokr


class DoraAbba(Dora):
    """V = W + ΔV with the ΔV of ABBA (abba.py)."""

    label: ClassVar[str] = "DoRA on ABBA"
    kind: ClassVar[type[AdditiveAlgorithm]] = Abba
