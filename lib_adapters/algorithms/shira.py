"""SHiRA: a sparse ΔW whose positions are in the file: ΔW[row, column] = value.

It has r·(o + i) entries, as many as a LoRA of rank r. Paper: arXiv:2406.13175. Tensor names: PEFT `ShiraLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, same_up_to_1x1
from lib_adapters.errors import CorruptFile, ShapeMismatch


@dataclass(frozen=True, eq=False)
class Shira(Algorithm):
    """Fits linear layers and 1x1 convolutions that are large enough for all positions; has no alpha."""

    label: ClassVar[str] = "SHiRA"
    needs_weight: ClassVar[bool] = False

    values: Tensor  # [n]
    places: Tensor  # [2, n], row and column; PEFT on Windows stores them as floats
    smallest: Shape  # (o, i) of the smallest weight that contains all positions

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"shira_weight", "shira_indices"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        values, stored = tensors["shira_weight"], tensors["shira_indices"]
        if stored.is_floating_point() and bool((stored.float() > 2 / torch.finfo(stored.dtype).eps).any()):
            raise CorruptFile(f"shira_indices are stored as {stored.dtype}, which rounds places of this size")
        places = stored.long()
        if values.ndim != 1 or places.shape != (2, len(values)) or bool((places < 0).any()):
            shapes = f"{list(values.shape)} and {list(places.shape)}"
            raise ShapeMismatch(f"shira_weight and shira_indices of {shapes} are not values and their positions")
        return cls(values, places, tuple((places.amax(dim=1) + 1).tolist()))

    def check_shape(self, shape: Shape) -> None:
        plain = len(shape) >= 2 and same_up_to_1x1(shape[:2], shape)
        if not plain or any(mine > axis for mine, axis in zip(self.smallest, shape, strict=False)):
            what = f"positions for a weight of at least {list(self.smallest)}"
        elif len(self.values) % (shape[0] + shape[1]):
            what = f"values of {list(self.values.shape)}, which are not a multiple of rows plus columns,"
        else:
            return
        raise ShapeMismatch(f"{what} do not fit a weight of {list(shape)}")

    def delta(self, weight: Tensor) -> Tensor:
        out = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        while out.ndim > 2:  # a kernel of 1x1
            out = out.select(-1, 0)
        out.index_put_((self.places[0], self.places[1]), self.values.float() * strength, accumulate=True)
