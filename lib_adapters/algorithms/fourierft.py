"""FourierFT: ΔW = scaling · Re(IDFT2(F)), where F [o, i] has n trained values at random positions, else zeros.

The positions are not in the file; they are the first n of a random permutation of all o·i positions, generated from the
config's `random_loc_seed` (`torch.randperm`, which torch does not guarantee to be the same in all releases).
Paper: arXiv:2405.03003. Tensor names: PEFT `FourierFTLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, LayerGroup, Shape, Shapes, Tensors, TrainingInfo, rng_seed, scale_of
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.seeded_random import random_positions

SEED = "random_loc_seed"


@dataclass(frozen=True, eq=False)
class Spectral(Algorithm):
    """Base of algorithms whose ΔW is a transform of n values at random positions; fits every matrix of n entries."""

    needs_weight: ClassVar[bool] = False

    spectrum: Tensor  # [n]
    seed: int
    scale: float
    places: Tensor | None = None  # [2, n] row and column, once generated for a layer

    def check_shape(self, shape: Shape) -> None:
        plain = len(shape) > 1 and all(k == 1 for k in shape[2:])
        if not plain or len(self.spectrum) > shape[0] * shape[1]:
            raise ShapeMismatch(f"{self.label} of {list(self.spectrum.shape)} numbers does not fit {list(shape)}")

    def in_group(self, shape: Shape, group: LayerGroup) -> Self:
        """Return a copy with its positions, generated once for all layers of a shape because that takes a second."""
        size = (len(self.spectrum), shape[0], shape[1])
        places = group.once(("places", self.seed, size), lambda: random_positions(self.seed, *size))
        return replace(self, places=places.to(self.spectrum.device))

    def _dense(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return the positions [2, n] and the values [n] in float32."""
        places = self.places
        if places is None:
            places = random_positions(self.seed, len(self.spectrum), shape[0], shape[1])
        return places.to(self.spectrum.device), self.spectrum.float()


@dataclass(frozen=True, eq=False)
class FourierFt(Spectral):
    """Fits linear layers and 1x1 convolutions, W [o, i] or [o, i, 1, 1]; PEFT trains linear layers."""

    label: ClassVar[str] = "FourierFT"

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"fourierft_spectrum", SEED, "scale"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        return cls(*spectrum_of(tensors, "fourierft_spectrum"), scale_of(tensors, 1, info))

    def delta(self, weight: Tensor) -> Tensor:
        places, numbers = self._dense(tuple(weight.shape))
        dense = torch.zeros(weight.shape[:2], dtype=torch.float32, device=numbers.device)
        dense[places[0], places[1]] = numbers
        transformed: Tensor = torch.fft.ifft2(dense)
        return transformed.real.mul(self.scale).view(weight.shape)


def spectrum_of(leaves: Tensors, name: str) -> tuple[Tensor, int]:
    """Return the trained values and the seed of their positions. Raise ShapeMismatch if they are not a vector."""
    if leaves[name].ndim != 1:
        raise ShapeMismatch(f"{name} should be a vector, not {list(leaves[name].shape)}")
    return leaves[name], rng_seed(leaves[SEED])
