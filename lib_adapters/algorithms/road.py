"""RoAd: W' = R·W and b' = R·b, where R rotates and scales pairs of rows: rows n and n + size/2 of each group.

Row n becomes c·W[n] - s'·W[n'], row n' becomes c'·W[n'] + s·W[n], with c = α·cos θ and s = α·sin θ of each row.
road_1 has one α and θ per pair of rows, road_2 one per row, road_4 separate ones for c and s.
The group size is only in the config (`group_size`); the variant follows from the number of angles.
Paper: arXiv:2409.00119. Tensor names: PEFT `RoadLayer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import Algorithm, Shape, Shapes, Tensors, TrainingInfo, to_scalar
from lib_adapters.errors import ShapeMismatch

GROUP = "road_group_size"


@dataclass(frozen=True, eq=False)
class Road(Algorithm):
    """Fits W [o, i, ...] whose number of rows is a multiple of the group size; PEFT trains linear layers; no alpha."""

    label: ClassVar[str] = "RoAd"

    angles: Tensor  # [o/2], [o] or [2·o]: θ
    lengths: Tensor  # as many: α
    group: int

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() == {"road_theta", "road_alpha", GROUP}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        angles, lengths, group = tensors["road_theta"], tensors["road_alpha"], to_scalar(tensors[GROUP])
        if angles.ndim != 1 or angles.shape != lengths.shape or group not in range(2, 2 * len(angles) + 1, 2):
            raise ShapeMismatch(
                f"road_theta of {list(angles.shape)}, road_alpha of {list(lengths.shape)} and groups of {group:g} "
                "do not fit each other"
            )
        return cls(angles, lengths, int(group))

    def check_shape(self, shape: Shape) -> None:
        rows = shape[0] if len(shape) > 1 else 0
        if not rows or rows % self.group or 2 * len(self.angles) not in (rows, 2 * rows, 4 * rows):
            mine = f"RoAd of {list(self.angles.shape)} angles in groups of {self.group}"
            raise ShapeMismatch(f"{mine} does not fit a weight of {list(shape)}")

    def delta(self, weight: Tensor) -> Tensor:
        return self._turned(weight)

    def _turned(self, rows: Tensor) -> Tensor:
        """Return (R - I)·rows, for rows [o, ...]."""
        straight, across = self._columns(len(rows))
        tail = (1,) * (rows.ndim - 1)
        halves = rows.reshape(-1, 2, self.group // 2, *rows.shape[1:])
        crossed = torch.stack((-halves[:, 1], halves[:, 0]), dim=1).reshape(rows.shape)
        return rows * (straight - 1).view(-1, *tail) + crossed * across.view(-1, *tail)

    def _columns(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return α·cos θ and α·sin θ per row, [o]: the coefficients of the row itself and of its partner."""
        angles, lengths = self.angles.float(), self.lengths.float()
        if 2 * len(angles) == rows:
            angles, lengths = (
                part.view(-1, 1, self.group // 2).expand(-1, 2, -1).flatten() for part in (angles, lengths)
            )
        if len(angles) == rows:
            return lengths * angles.cos(), lengths * angles.sin()
        angles, lengths = (part.view(-1, 2, self.group) for part in (angles, lengths))
        return (lengths[:, 0] * angles[:, 0].cos()).flatten(), (lengths[:, 1] * angles[:, 1].sin()).flatten()

    @property
    def has_bias(self) -> bool:
        return True

    def bias_delta(self, bias: Tensor) -> Tensor:
        return self._turned(bias)
