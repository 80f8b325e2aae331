"""Rows of one batch with strengths of their own: prompts joined by AND, the negative side, other tags in each picture.

A layer may see each row several times, one after the other (a host that cuts attention into tiles): all of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_adapters.patching.dial import Dial
from lib_adapters.patching.patch import Patch

Factors = tuple[float, ...]
Places = slice | Tensor  # of rows in a batch
Group = tuple[int, Places]


@dataclass(frozen=True)
class Spread:
    """Strengths over the rows of one batch."""

    strengths: Tensor  # [n, patches]
    groups: list[Group]
    runs: list[slice]  # of neighbouring rows with any strength
    acting: int  # rows with any
    kinds: int  # groups with any


class Rows:
    """`dials`: those of one layer whose rows differ, all of one batch."""

    def __init__(self, dials: Sequence[Dial]) -> None:
        self._dials = dials
        self.count = len(dials[0].rows or ())

    def strengths(self, patches: Sequence[Patch], n: int) -> Tensor | None:
        """[n, patches]; None where n rows cannot be told apart."""
        if n % self.count:
            return None
        columns = [self._column(patch) for patch in patches]
        return torch.tensor(columns, dtype=torch.float32, device="cpu").t().repeat_interleave(n // self.count, dim=0)

    def _column(self, patch: Patch) -> list[float]:
        if patch.dial is None:
            return [patch.strength] * self.count
        base = patch.strength * patch.dial.value
        return [base * factor for factor in patch.dial.rows or (1.0,) * self.count]

    def groups(self, n: int, device: torch.device) -> list[Group] | None:
        """Rows that are alike: one of them, and the places of all; None where n rows cannot be told apart."""
        if n % self.count:
            return None
        found: dict[Factors, list[int]] = {}
        for row in range(self.count):
            found.setdefault(tuple(dial.rows[row] for dial in self._dials if dial.rows), []).append(row)
        return [(rows[0], _places(rows, n // self.count, device)) for rows in found.values()]

    def spread(self, patches: Sequence[Patch], n: int, device: torch.device) -> Spread | None:
        """All that is needed to run n rows of one batch; None where they cannot be told apart."""
        strengths, groups = self.strengths(patches, n), self.groups(n, device)
        if strengths is None or groups is None:
            return None
        acts = strengths.any(dim=1).tolist()
        starts = [row for row in range(n) if acts[row] and not (row and acts[row - 1])]
        stops = [row + 1 for row in range(n) if acts[row] and not (row + 1 < n and acts[row + 1])]
        each = n // self.count
        kinds = sum(acts[row * each] for row, _ in groups)
        return Spread(strengths.to(device), groups, list(map(slice, starts, stops)), sum(acts), kinds)


def _places(rows: Sequence[int], each: int, device: torch.device) -> Places:
    """Neighbours are taken without a copy."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0] * each, (rows[-1] + 1) * each)
    return torch.tensor([row * each + n for row in rows for n in range(each)], device=device)


def rows_of(patches: Sequence[Patch]) -> Rows | None:
    """None where one strength is for all rows."""
    dials = {id(patch.dial): patch.dial for patch in patches if patch.dial is not None and patch.dial.rows is not None}
    return Rows(list(dials.values())) if dials else None
