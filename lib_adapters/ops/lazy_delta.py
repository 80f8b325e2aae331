"""ΔW as a product of small float32 factors, added to a weight without building a second one.

Axis letters: o = out, i = in, r = rank, ... = kernel. Every `add` takes any strided `out` of [o, i, ...].
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

Shape = tuple[int, ...]


class LazyDelta(Protocol):
    """ΔW [o, i, ...] that need not be built; its own scale is inside, `strength` comes on top."""

    def add(self, out: Tensor, strength: float) -> None:
        """out += strength · ΔW, in place; `out` is float32 [o, i, ...]."""

    def rows(self, start: int, stop: int) -> LazyDelta:
        """The same for these output rows alone: ΔW[start:stop]."""


def rows_per_block(out: Tensor) -> int:
    """Return the rows per block: on the CPU two blocks stay in the shared cache and are worth dividing among threads;
    on CUDA launches are few.
    """
    elements = 1 << 22 if out.is_cuda else 1 << 19
    return max(1, elements * len(out) // max(1, out.numel()))


def matrix_view(out: Tensor) -> Tensor | None:
    """A view [o, i*kernel], where the strides allow one."""
    try:
        return out.view(len(out), -1)
    except RuntimeError:
        return None


class Matmul:
    """scale · up @ down: up [o, r], down [r, i*kernel]."""

    def __init__(self, up: Tensor, down: Tensor, scale: float) -> None:
        self.up, self.down, self.scale = up.float(), down.float(), scale

    def add(self, out: Tensor, strength: float) -> None:
        matrix = matrix_view(out)
        if matrix is None:
            out.add_(torch.mm(self.up, self.down).view(out.shape), alpha=self.scale * strength)
        else:
            matrix.addmm_(self.up, self.down, alpha=self.scale * strength)

    def rows(self, start: int, stop: int) -> Self:
        return type(self)(self.up[start:stop], self.down, self.scale)


class WithDense:
    """product + scale · rest, rest [o, i*kernel]."""

    def __init__(self, product: LazyDelta, rest: Tensor, scale: float) -> None:
        self.base_delta, self.dense, self.scale = product, rest.float(), scale

    def add(self, out: Tensor, strength: float) -> None:
        self.base_delta.add(out, strength)
        out.add_(self.dense.view(out.shape), alpha=self.scale * strength)

    def rows(self, start: int, stop: int) -> WithDense:
        return WithDense(self.base_delta.rows(start, stop), self.dense[start:stop], self.scale)


class WithSparse:
    """product + scale · values at (row, column): places [2, n] in [o, i*kernel], values [n]."""

    def __init__(self, product: LazyDelta, places: Tensor, values: Tensor, scale: float) -> None:
        self.base_delta, self.indices, self.values, self.scale = product, places.long(), values.float(), scale

    def add(self, out: Tensor, strength: float) -> None:
        self.base_delta.add(out, strength)
        rows, columns = self.indices
        kernel = out[0, 0].numel()
        index = [rows, columns // kernel]
        for size in out.shape[2:]:
            kernel //= size
            index.append(columns // kernel % size)
        out.index_put_(index, self.values * (self.scale * strength), accumulate=True)

    def rows(self, start: int, stop: int) -> WithSparse:
        mine = (self.indices[0] >= start) & (self.indices[0] < stop)
        places = self.indices[:, mine] - self.indices.new_tensor([[start], [0]])
        return WithSparse(self.base_delta.rows(start, stop), places, self.values[mine], self.scale)
