"""Weight decomposition (DoRA): V = W + ΔV is given new norms, block by block, and only the change is added.

Paper: arXiv:2402.09353. V never exists as a whole: along columns each block is computed twice instead.
`out` and `base` are float32 [o, i, ...]; `base` is never written.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lib_adapters.ops.lazy_delta import LazyDelta, rows_per_block

EPS = torch.finfo(torch.float32).eps  # LyCORIS adds it to the norm; an untouched row of zeros stays finite


def add_row_delta_(out: Tensor, base: Tensor, product: LazyDelta, magnitude: Tensor, strength: float) -> None:
    """out += strength · (V · magnitude / ‖V‖ - W), norms and magnitude [o] per row."""
    for rows, block in _blocks(base, product):
        norm = torch.linalg.vector_norm(block.flatten(1), dim=1).add_(EPS)
        block.mul_(broadcast_along(magnitude[rows] / norm, 0, block)).sub_(base[rows])
        out[rows].add_(block, alpha=strength)


def merge_rows(out: Tensor, base: Tensor, product: LazyDelta, magnitude: Tensor, strength: float) -> Tensor:
    """out = base + what `add_row_delta_` adds: V is made and scaled where it will stay."""
    for rows, block in _blocks(base, product, out):
        norm = torch.linalg.vector_norm(block.flatten(1), dim=1).add_(EPS)
        blend_(block, base[rows], broadcast_along(magnitude[rows] / norm, 0, block), strength)
    return out


def merge_columns(out: Tensor, base: Tensor, product: LazyDelta, factor: Tensor, strength: float) -> Tensor:
    """out = base + what `add_column_delta_` adds."""
    factor = broadcast_along(factor, 1, base)
    for rows, block in _blocks(base, product, out):
        blend_(block, base[rows], factor, strength)
    return out


def blend_(block: Tensor, base: Tensor, factor: Tensor, strength: float) -> None:
    """base + strength · (block · factor - base), into `block`."""
    block.mul_(factor * strength)
    if strength != 1.0:
        block.add_(base, alpha=1.0 - strength)


def column_norms(base: Tensor, product: LazyDelta) -> Tensor:
    """‖V‖ per input column and its kernel, [i]."""
    return _column_sums(base, product, square=True).sqrt_().add_(EPS)


def column_means(base: Tensor, product: LazyDelta) -> Tensor:
    """The mean of V per input column, sign and all: what LyCORIS took for a norm at first. [i]"""
    return _column_sums(base, product, square=False).mul_(base.shape[1] / base.numel())


def _column_sums(base: Tensor, product: LazyDelta, square: bool) -> Tensor:
    total = torch.zeros(base[0].numel(), dtype=torch.float32, device=base.device)
    for _, block in _blocks(base, product):
        matrix = block.flatten(1)
        total += (matrix.square_() if square else matrix).sum(dim=0)
    return total.view(base.shape[1], -1).sum(dim=1)


def add_column_delta_(out: Tensor, base: Tensor, product: LazyDelta, factor: Tensor, strength: float) -> None:
    """out += strength · (V · factor - W), factor [i]."""
    factor = broadcast_along(factor, 1, base)
    for rows, block in _blocks(base, product):
        block.mul_(factor).sub_(base[rows])
        out[rows].add_(block, alpha=strength)


def _blocks(base: Tensor, product: LazyDelta, into: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """V row by row, in its place in `into` or in one scratch block that the caller may overwrite."""
    step = min(len(base), rows_per_block(base))
    scratch = torch.empty((step, *base.shape[1:]), dtype=torch.float32, device=base.device) if into is None else into
    for start in range(0, len(base), step):
        rows = slice(start, min(start + step, len(base)))
        block = scratch[: rows.stop - start] if into is None else into[rows]
        block.copy_(base[rows])
        product.rows(start, rows.stop).add(block, 1.0)
        yield rows, block


def broadcast_along(vector: Tensor, axis: int, like: Tensor) -> Tensor:
    """Return the vector as a view that broadcasts along `axis` of `like`."""
    return vector.view(*(-1 if n == axis else 1 for n in range(like.ndim)))
