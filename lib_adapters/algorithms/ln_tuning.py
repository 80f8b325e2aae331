"""LN tuning: the file contains the full trained weight and bias of a norm, W' = w, so ΔW = w − W, Δb = b' − b.

PEFT copies the layer and trains the copy; it may be any layer with a weight, not only a norm.
Paper: arXiv:2312.11420. Tensor names: PEFT `LNTuningLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import Self

from lib_adapters.algorithms.base import Shapes, Tensors, TrainingInfo
from lib_adapters.algorithms.replacement_weights import ReplacementWeight

WEIGHT, BIAS = "ln_tuning_layers.weight", "ln_tuning_layers.bias"


@dataclass(frozen=True, eq=False)
class LnTuning(ReplacementWeight):
    """The same arithmetic as Whole under PEFT's names."""

    label: ClassVar[str] = "LN tuning"

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return WEIGHT in shapes and shapes.keys() <= {WEIGHT, BIAS}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        return cls(tensors[WEIGHT], tensors.get(BIAS))
