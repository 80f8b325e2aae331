"""LoKr: ΔW = scale · w1 ⊗ w2, either factor whole or itself a low-rank product.

Paper: KronA, arXiv:2212.10650. Leaf names: LyCORIS `LokrModule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Shape, Shapes, Tensors, TrainingInfo, shape_mismatch
from lib_adapters.algorithms.history import LOKR_BYPASS_FIXED, LOKR_BYPASS_UNSCALED_SINCE
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors, input_matches, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.kronecker import Kron
from lib_adapters.ops.tucker import fold_core


@dataclass(frozen=True, eq=False)
class Lokr(AdditiveAlgorithm):
    """o = a·b, i = c·d. Where a factor is whole, its `_down` is None."""

    label: ClassVar[str] = "LoKr"

    w1: Tensor  # [a, c] or [a, r]
    w1_down: Tensor | None  # [r, c]
    w2: Tensor  # [b, d, ...] or [b, r]
    w2_down: Tensor | None  # [r, d, ...] or [r, d*kernel]
    core: Tensor | None  # [r, r, ...] tucker, its first axis meets w2
    scale: float
    bypassed: str = ""  # trained in bypass mode, which forgot the scale: of "all" layers, or of those without "kernel"

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return _has(shapes, "lokr_w1") and _has(shapes, "lokr_w2") and "dora_scale" not in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        w1, w1_down = _factor(tensors, "lokr_w1")
        w2, w2_down = _factor(tensors, "lokr_w2")
        core = None if w2_down is None else tensors.get("lokr_t2")
        _check(w1, w1_down, w2, w2_down, core)
        w2 = w2 if core is None else w2.t()
        inner = next((len(down) for down in (w1_down, w2_down) if down is not None), None)
        if inner is None:  # both whole: the trainer's factor is 1 whatever alpha the file carries (1e10, inf)
            tensors = {name: tensor_name for name, tensor_name in tensors.items() if name != "alpha"}
        return cls(w1, w1_down, w2, w2_down, core, total_scale(tensors, inner or 1, info), _bypassed(info))

    def check_shape(self, shape: Shape) -> None:
        a, c = len(self.w1), (self.w1 if self.w1_down is None else self.w1_down).shape[1]
        mine = (a * len(self.w2), *self._tail(c))
        whole = self.w2_down is None  # then a flat [b, d] is a linear layer's, never a convolution's
        fits = len(shape) >= 2 and mine[0] == shape[0] and shape[1] % c == 0
        if not fits or not input_matches(mine, shape) or (whole and mine[1] != shape[1]):
            raise shape_mismatch(mine, shape)

    def _tail(self, c: int) -> Shape:
        """Input width and kernel of ΔW; a flat w2_b keeps its kernel in the width."""
        down = self.w2 if self.w2_down is None else self.w2_down
        kernel = down.shape[2:] if self.core is None else self.core.shape[2:]
        return (c * down.shape[1], *kernel)

    def lazy_delta(self, shape: Shape) -> Kron:
        w1 = self.w1 if self.w1_down is None else self.w1.float() @ self.w1_down.float()
        return Kron(w1, self._w2(), self._scale(shape))

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        return self.lazy_delta(weight.shape).merged(weight, strength, out)

    def _w2(self) -> Tensor:
        """[b, d*kernel]"""
        if self.w2_down is None:
            return self.w2.flatten(1)
        down = self.w2_down.flatten(1) if self.core is None else fold_core(self.core, self.w2_down)
        return self.w2.float() @ down.float()

    def _scale(self, shape: Shape) -> float:
        forgotten = self.bypassed == "all" or (self.bypassed == "kernel" and math.prod(shape[2:]) == 1)
        return 1.0 if forgotten else self.scale

    @property
    def rank(self) -> int | None:
        down = self.w1_down if self.w2_down is None else self.w2_down
        return None if down is None else len(down)


def _has(shapes: Shapes, name: str) -> bool:
    return name in shapes or (f"{name}_a" in shapes and f"{name}_b" in shapes)


def _factor(leaves: Tensors, name: str) -> tuple[Tensor, Tensor | None]:
    if name in leaves:
        return leaves[name], None
    return leaves[f"{name}_a"], leaves[f"{name}_b"]


def _check(w1: Tensor, w1_down: Tensor | None, w2: Tensor, w2_down: Tensor | None, core: Tensor | None) -> None:
    if w1_down is not None:
        check_factors(w1, w1_down, "lokr_w1_a and lokr_w1_b")
    if core is not None and w2_down is not None:
        if w2.ndim != 2 or w2_down.ndim != 2 or core.ndim < 3 or core.shape[:2] != (len(w2), len(w2_down)):
            pair = f"{list(w2.shape)} and {list(w2_down.shape)}"
            raise ShapeMismatch(f"lokr_t2 of {list(core.shape)} does not fit factors of {pair}")
    elif w2_down is not None:
        check_factors(w2, w2_down, "lokr_w2_a and lokr_w2_b")
    pairs = [w1] if w1_down is None else [w1, w1_down]
    flat = pairs if w2_down is None else [*pairs, w2]
    if any(factor.ndim != 2 for factor in flat) or w2.ndim < 2:
        shapes = " and ".join(str(list(factor.shape)) for factor in (*pairs, w2))
        raise ShapeMismatch(f"Kronecker factors need two axes, not {shapes}")


def _bypassed(facts: TrainingInfo) -> str:
    if not facts.bypass_mode or facts.trained_at >= LOKR_BYPASS_FIXED or facts.scale_override is not None:
        return ""
    return "all" if facts.trained_at >= LOKR_BYPASS_UNSCALED_SINCE else "kernel"
