"""Rows of one batch with strengths of their own: prompts joined by AND, the negative side, other tags in each picture.

A layer may see each row several times, one after the other (a host that cuts attention into tiles): all of them count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_adapters.patching.dial import Dial
from lib_adapters.patching.patch import Patch

Factors = tuple[float, ...]


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
        return torch.tensor(columns).t().repeat_interleave(n // self.count, dim=0)

    def _column(self, patch: Patch) -> list[float]:
        if patch.dial is None:
            return [patch.strength] * self.count
        base = patch.strength * patch.dial.value
        return [base * factor for factor in patch.dial.rows or (1.0,) * self.count]

    def groups(self, n: int) -> list[tuple[int, Tensor]] | None:
        """Rows that are alike: one of them, and the places [m] of all; None where n rows cannot be told apart."""
        if n % self.count:
            return None
        found: dict[Factors, list[int]] = {}
        for row in range(self.count):
            found.setdefault(tuple(dial.rows[row] for dial in self._dials if dial.rows), []).append(row)
        each = n // self.count
        spread = torch.arange(each)
        return [
            (rows[0], (torch.tensor(rows).unsqueeze(1) * each + spread).flatten()) for rows in found.values()
        ]


def rows_of(patches: Sequence[Patch]) -> Rows | None:
    """None where one strength is for all rows."""
    dials = {id(patch.dial): patch.dial for patch in patches if patch.dial is not None and patch.dial.rows is not None}
    return Rows(list(dials.values())) if dials else None
