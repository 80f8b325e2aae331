"""WaveFT: ΔW = scaling · IDWT2(F), where F has n trained values at random positions, else zeros.

One level of the inverse wavelet transform: F is padded by the filter length, its quarters are the four bands, and the
centre of the result is ΔW. PEFT applies the high-pass filter to the top right quarter along the rows axis, and to the
bottom left one along the columns axis. Without `use_idwt`, ΔW = scaling · F.
The positions are generated from `random_loc_seed` as for FourierFT (`torch.randperm`).
Paper: arXiv:2505.12532. Tensor names: PEFT `WaveFTLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Shapes, Tensors, TrainingInfo, scale_of, to_scalar
from lib_adapters.algorithms.fourierft import SEED, Spectral, spectrum_of
from lib_adapters.errors import CorruptFile
from lib_adapters.ops.wavelets import FAMILIES, MAX_ORDER, inverse_transform, low_pass

KINDS = {*(f"waveft_{family}" for family in FAMILIES), "waveft_direct"}


@dataclass(frozen=True, eq=False)
class WaveFt(Spectral):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]; PEFT trains linear layers."""

    label: ClassVar[str] = "WaveFT"

    family: str = ""  # "db" or "sym"; "" without a transform
    order: int = 0  # of the wavelet: its filters have 2·order taps

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        common = {"waveft_spectrum", SEED, "scale"}
        return common < shapes.keys() <= common | KINDS and len(shapes) == len(common) + 1

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        (kind,) = KINDS & tensors.keys()
        family, order = kind.removeprefix("waveft_"), to_scalar(tensors[kind])
        common = *spectrum_of(tensors, "waveft_spectrum"), scale_of(tensors, 1, info)
        if family == "direct":
            return cls(*common)
        if order not in range(1, MAX_ORDER + 1):
            raise CorruptFile(f"wavelet {family}{order:g} is not supported; the order must be from 1 to {MAX_ORDER}")
        return cls(*common, None, family, int(order))

    def delta(self, weight: Tensor) -> Tensor:
        places, numbers = self._dense(tuple(weight.shape))
        if not self.family:
            dense = torch.zeros(weight.shape[:2], dtype=torch.float32, device=numbers.device)
            dense[places[0], places[1]] = numbers
            return dense.mul_(self.scale).view(weight.shape)
        return self._transformed(places, numbers, *weight.shape[:2]).mul_(self.scale).reshape(weight.shape)

    def _transformed(self, places: Tensor, numbers: Tensor, outputs: int, inputs: int) -> Tensor:
        low = low_pass(self.family, self.order).to(numbers.device)
        margin = len(low) - 2
        sizes = [size + margin + (size + margin) % 2 for size in (outputs, inputs)]
        rows, columns = places[0] + (sizes[0] - outputs) // 2, places[1] + (sizes[1] - inputs) // 2
        half_rows, half_columns = (size // 2 for size in sizes)
        lower, right = rows >= half_rows, columns >= half_columns
        dense = torch.zeros(sizes, dtype=torch.float32, device=numbers.device)
        # swap PEFT's off-diagonal quarters, so that each half of an axis has one filter
        dense[rows % half_rows + right * half_rows, columns % half_columns + lower * half_columns] = numbers
        whole = inverse_transform(inverse_transform(dense, low).T, low).T
        return whole[:outputs, :inputs]
