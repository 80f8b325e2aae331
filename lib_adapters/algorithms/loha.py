"""LoHa: ΔW = scale · (w1_a @ w1_b) ⊙ (w2_a @ w2_b).

Paper: FedPara, arXiv:2108.06098, proposition 1. Leaf names: LyCORIS `LohaModule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Shape, Shapes, Tensors, TrainingInfo, shape_mismatch
from lib_adapters.algorithms.history import LOHA_TWO_CORES_SINCE
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors, input_matches, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.hadamard import Hadamard
from lib_adapters.ops.tucker import fold_core

LEAVES = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}


@dataclass(frozen=True, eq=False)
class Loha(AdditiveAlgorithm):
    """Fits W [o, i, ...]; r is the rank of the first half."""

    label: ClassVar[str] = "LoHa"

    up1: Tensor  # [o, r]
    down1: Tensor  # [r, i, ...] or [r, i*kernel]
    up2: Tensor
    down2: Tensor
    core1: Tensor | None  # [r, r, ...] tucker: its first axis meets `up`
    core2: Tensor | None
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= LEAVES and "dora_scale" not in shapes

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        core1, core2 = tensors.get("hada_t1"), tensors.get("hada_t2")
        if (core1 is None) != (core2 is None):
            raise ShapeMismatch("hada_t1 and hada_t2 belong together, but only one of them is there")
        if 0 < info.trained_at < LOHA_TWO_CORES_SINCE:
            core2 = core1
        up1, down1 = _half(tensors["hada_w1_a"], tensors["hada_w1_b"], core1)
        up2, down2 = _half(tensors["hada_w2_a"], tensors["hada_w2_b"], core2)
        if len(up1) != len(up2) or down1.flatten(1).shape[1] != down2.flatten(1).shape[1]:
            raise ShapeMismatch(f"the halves {_names(up1, down1)} and {_names(up2, down2)} do not fit each other")
        return cls(up1, down1, up2, down2, core1, core2, total_scale(tensors, len(down1), info))

    def check_shape(self, shape: Shape) -> None:
        for up, down, core in (self.up1, self.down1, self.core1), (self.up2, self.down2, self.core2):
            kernel = down.shape[2:] if core is None else core.shape[2:]
            mine = (len(up), down.shape[1], *kernel)
            if not shape or mine[0] != shape[0] or not input_matches(mine, shape):
                raise shape_mismatch(mine, shape)

    def lazy_delta(self, shape: Shape) -> Hadamard:
        first = self.up1, _columns(self.down1, self.core1)
        second = self.up2, _columns(self.down2, self.core2)
        return Hadamard(first, second, self.scale)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        return self.lazy_delta(weight.shape).merged(weight, strength, out)

    @property
    def rank(self) -> int:
        return len(self.down1)


def _half(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """(up, down) of one half; tucker files store w_a as [r, o]."""
    if core is None:
        check_factors(a, b, "hada_w_a and hada_w_b")
        return a.flatten(1), b
    if a.ndim != 2 or b.ndim != 2 or core.ndim < 3 or core.shape[:2] != (len(a), len(b)):
        raise ShapeMismatch(f"hada_t of {list(core.shape)} does not fit factors of {list(a.shape)} and {list(b.shape)}")
    return a.t(), b


def _columns(down: Tensor, core: Tensor | None) -> Tensor:
    return down.flatten(1) if core is None else fold_core(core, down)


def _names(up: Tensor, down: Tensor) -> str:
    return f"{list(up.shape)} x {list(down.shape)}"
