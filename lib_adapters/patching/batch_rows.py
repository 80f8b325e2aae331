"""Strengths for each batch row: AND sub-prompts, the negative prompt, per-image tags.

A layer may see each row several times, one after the other (a host that cuts attention into tiles): all of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_adapters.patching.patch import Patch, ScheduledStrength

Factors = tuple[float, ...]
RowIndex = slice | Tensor  # of rows in a batch
RowGroup = tuple[int, RowIndex]


@dataclass(frozen=True)
class RowLayout:
    """Strengths over the rows of one batch."""

    strengths: Tensor  # [n, patches]
    groups: list[RowGroup]
    runs: list[slice]  # of neighbouring rows with any strength
    acting: int  # rows with any
    distinct: int  # groups with any


class RowStrengths:
    """`dials`: those of one layer whose rows differ, all of one batch."""

    def __init__(self, scheduled_strengths: Sequence[ScheduledStrength]) -> None:
        self._scheduled = scheduled_strengths
        self.count = len(scheduled_strengths[0].row_strengths or ())

    def strengths(self, patches: Sequence[Patch], n: int) -> Tensor | None:
        """[n, patches]; None where n rows cannot be told apart."""
        if n % self.count:
            return None
        columns = [self._column(patch) for patch in patches]
        return torch.tensor(columns, dtype=torch.float32, device="cpu").t().repeat_interleave(n // self.count, dim=0)

    def _column(self, patch: Patch) -> list[float]:
        if patch.scheduled is None:
            return [patch.strength] * self.count
        base = patch.strength * patch.scheduled.value
        return [base * factor for factor in patch.scheduled.row_strengths or (1.0,) * self.count]

    def groups(self, n: int, device: torch.device) -> list[RowGroup] | None:
        """Rows that are alike: one of them, and the places of all; None where n rows cannot be told apart."""
        if n % self.count:
            return None
        found: dict[Factors, list[int]] = {}
        for row in range(self.count):
            found.setdefault(
                tuple(scheduled.row_strengths[row] for scheduled in self._scheduled if scheduled.row_strengths), []
            ).append(row)
        return [(rows[0], _places(rows, n // self.count, device)) for rows in found.values()]

    def layout(self, patches: Sequence[Patch], n: int, device: torch.device) -> RowLayout | None:
        """All that is needed to run n rows of one batch; None where they cannot be told apart."""
        strengths, groups = self.strengths(patches, n), self.groups(n, device)
        if strengths is None or groups is None:
            return None
        acts = strengths.any(dim=1).tolist()
        starts = [row for row in range(n) if acts[row] and not (row and acts[row - 1])]
        stops = [row + 1 for row in range(n) if acts[row] and not (row + 1 < n and acts[row + 1])]
        each = n // self.count
        kinds = sum(acts[row * each] for row, _ in groups)
        return RowLayout(strengths.to(device), groups, list(map(slice, starts, stops)), sum(acts), kinds)


def _places(rows: Sequence[int], each: int, device: torch.device) -> RowIndex:
    """Neighbours are taken without a copy."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0] * each, (rows[-1] + 1) * each)
    return torch.tensor([row * each + n for row in rows for n in range(each)], device=device)


def row_strengths_of(patches: Sequence[Patch]) -> RowStrengths | None:
    """None where one strength is for all rows."""
    scheduled_strengths = {
        id(patch.scheduled): patch.scheduled
        for patch in patches
        if patch.scheduled is not None and patch.scheduled.row_strengths is not None
    }
    return RowStrengths(list(scheduled_strengths.values())) if scheduled_strengths else None
