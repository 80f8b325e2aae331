"""GLoRA: ΔW = scale · (W·A + B), both low-rank; LyCORIS turned the names of the factors round in 3.0.0.

Paper: arXiv:2306.07967. Leaf names: LyCORIS `GLoRAModule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import (
    Algorithm,
    LowRankFactors,
    Shape,
    Shapes,
    Tensors,
    TrainingInfo,
    shape_mismatch,
    stores_nominal_alpha,
)
from lib_adapters.algorithms.history import GLORA_BYPASS_FIXED, GLORA_NEW_NAMES_SINCE, GLORA_SCALE_SQUARED_SINCE
from lib_adapters.algorithms.low_rank import input_matches, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import rows_per_block
from lib_adapters.ops.tucker import fold_core

LEAVES = {"a1.weight", "a2.weight", "b1.weight", "b2.weight"}


@dataclass(frozen=True, eq=False)
class Glora(Algorithm):
    """The factors by what they do, whatever the file calls them: A = a_up @ a_down, B = b_up @ b_down."""

    label: ClassVar[str] = "GLoRA"

    a_up: Tensor  # [i, r]: W's input axis is contracted with this
    a_down: Tensor  # [r, i]
    b_up: Tensor  # [o, r]
    b_down: Tensor  # [r, i, ...]
    b_core: Tensor | None  # [r, r, ...]
    scale: float

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= LEAVES

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        a1, a2, b1, b2 = (tensors[name] for name in sorted(LEAVES))
        fitting = [new for new in (True, False) if _fits(a1, a2, b1, b2, new)]
        if not fitting:
            shapes = ", ".join(str(list(t.shape)) for t in (a1, a2, b1, b2))
            raise ShapeMismatch(f"the factors a1, a2, b1 and b2 of {shapes} do not fit each other")
        new = fitting[0] if len(fitting) == 1 else _is_new(a1, info)
        if not new:
            a1, a2, b1, b2 = a2, a1, b2, b1
        scale, core = _scale(tensors, len(b2), info, new), tensors.get("bm.weight")
        if core is not None and (core.shape[:2] != (len(b2), len(b2)) or any(k != 1 for k in b2.shape[2:])):
            raise ShapeMismatch(f"bm of {list(core.shape)} does not fit a factor of {list(b2.shape)}")
        return cls(a1.flatten(1), a2.flatten(1), b1.flatten(1), b2, core, scale)

    def check_shape(self, shape: Shape) -> None:
        kernel = self.b_down.shape[2:] if self.b_core is None else self.b_core.shape[2:]
        mine = (len(self.b_up), self.b_down.shape[1], *kernel)
        fits = len(shape) >= 2 and mine[0] == shape[0] and len(self.a_up) == shape[1]
        if not fits or not input_matches(mine, shape):
            raise shape_mismatch(mine, shape)

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        """[b_up | W @ a_up] @ [b_down; a_down]; with a kernel W·A keeps it, so there is no thin pair."""
        if math.prod(weight.shape[2:]) != 1:
            return None
        up = torch.cat((self.b_up.float(), weight.flatten(1) @ self.a_up.float()), dim=1)
        return LowRankFactors(up, torch.cat((self._b_columns(), self.a_down.float())), self.scale)

    def _b_columns(self) -> Tensor:
        return self.b_down.flatten(1).float() if self.b_core is None else fold_core(self.b_core, self.b_down.flatten(1))

    def delta(self, weight: Tensor) -> Tensor:
        out = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        self.add_delta_(out, weight, 1.0)
        return out

    def add_delta_(self, out: Tensor, weight: Tensor, strength: float) -> None:
        if (pair := self.as_low_rank(weight)) is not None:
            out.view(out.shape[:2]).addmm_(pair.up, pair.down, alpha=self.scale * strength)
            return
        a_up, a_down, b_up, b_down = (
            self.a_up.float().t(),
            self.a_down.float().t(),
            self.b_up.float(),
            self._b_columns(),
        )
        step = rows_per_block(weight)
        for rows in (slice(start, start + step) for start in range(0, len(weight), step)):
            mixed = a_down @ (a_up @ weight[rows].flatten(2))  # [rows, i, kernel]
            mixed.flatten(1).addmm_(b_up[rows], b_down)
            out[rows].add_(mixed.view(out[rows].shape), alpha=self.scale * strength)

    @property
    def rank(self) -> int:
        return len(self.b_down)

    def truncate(self, rank: int) -> Self:
        if not 0 < rank < self.rank:
            return self
        return replace(
            self,
            a_up=self.a_up[:, :rank],
            a_down=self.a_down[:rank],
            b_up=self.b_up[:, :rank],
            b_down=self.b_down[:rank],
            b_core=None if self.b_core is None else self.b_core[:rank, :rank],
        )


def _fits(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor, new: bool) -> bool:
    """New: a1 [i, r], a2 [r, i], b1 [o, r], b2 [r, i, ...]. Old: each pair the other way round."""
    a_up, a_down, b_up, b_down = (a1, a2, b1, b2) if new else (a2, a1, b2, b1)
    if any(t.ndim < 2 for t in (a1, a2, b1, b2)) or any(k != 1 for t in (a_up, a_down, b_up) for k in t.shape[2:]):
        return False
    (i, r), o_r = a_up.shape[:2], b_up.shape[1]
    return a_down.shape[:2] == (r, i) and o_r == r and b_down.shape[:2] == (r, i)


def _is_new(a1: Tensor, facts: TrainingInfo) -> bool:
    """On a square layer both conventions fit: the one whose rank is the smaller, and between equals the dated one."""
    width, rank = a1.shape[:2]
    return rank < width if rank != width else not 0 < facts.trained_at < GLORA_NEW_NAMES_SINCE


def _scale(leaves: Tensors, rank: int, facts: TrainingInfo, new: bool) -> float:
    """GLoRA never corrected the alpha it stores for rs-LoRA, and some of its forwards multiplied twice."""
    scale = total_scale(leaves, rank, facts)
    if facts.scale_override is not None:
        return scale
    if facts.rs_lora and not stores_nominal_alpha(facts):
        scale *= math.sqrt(rank)
    bypass = new and facts.bypass_mode and facts.trained_at < GLORA_BYPASS_FIXED
    return scale**2 if bypass or (not new and facts.trained_at >= GLORA_SCALE_SQUARED_SINCE) else scale
