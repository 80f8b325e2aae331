"""W' = W + Σ ΔW: one pass over a parameter, in float32, one cast at the end.

Nothing here writes into W. Low-rank deltas of several adapters become one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lib_adapters.algorithms.base import LowRankFactors
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul, rows_per_block
from lib_adapters.patching.layers import WeightView
from lib_adapters.patching.patch import Patch

Thin = list[tuple[float, LowRankFactors]]


def merged_weight(original: Tensor, patches: Sequence[Patch], into: Tensor | None = None) -> Tensor:
    """W', of the pristine tensor's shape, dtype and device: `into`, which is like it and nobody's weight, or a new one.

    The bits are the same either way.
    """
    patches = [_on(patch, original.device) for patch in patches]
    for way in (_in_half, _in_blocks):
        if (quick := way(original, patches, into)) is not None:
            return quick
    base = original.float()
    free = into if into is not None and into.dtype == base.dtype and into.is_contiguous() else None
    out = _sum(base, patches, free)
    if into is None:
        return out.to(original.dtype)
    return out if out is into else into.copy_(out)


def _sum(base: Tensor, patches: Sequence[Patch], free: Tensor | None) -> Tensor:
    """In float32; in `free` where there is such memory."""
    out: Tensor | None = None
    for view, group in _by_view(patches):
        thin, thick = _split(view.apply(base), group)
        out = _with_thin(base, out, (view, free), thin)
        for patch in thick:
            if out is None and view == WeightView():
                out = patch.algorithm.merged(base, patch.strength, free)
                continue
            out = _copy(base, free) if out is None else out
            patch.algorithm.add_delta_(view.apply(out), view.apply(base), patch.strength)
    return _copy(base, free) if out is None else out


def _copy(base: Tensor, free: Tensor | None) -> Tensor:
    return base.clone() if free is None else free.copy_(base)


def _on(patch: Patch, device: torch.device) -> Patch:
    moved = patch.algorithm.to(device)
    return patch if moved is patch.algorithm else replace(patch, algorithm=moved)


def merged_bias(original: Tensor, patches: Sequence[Patch], into: Tensor | None = None) -> Tensor:
    """b + Σ strength · Δb, [o]: with `into` as in `merged_weight`."""
    out = original.float().clone()
    for patch in patches:
        algorithm = patch.algorithm.to(original.device)
        rows = patch.view.apply(out)
        if (delta := algorithm.bias_delta(patch.view.apply(original.float()))) is not None:
            rows.add_(delta.reshape(rows.shape), alpha=patch.strength)
    return out.to(original.dtype) if into is None else into.copy_(out)


def _by_view(patches: Sequence[Patch]) -> list[tuple[WeightView, list[Patch]]]:
    groups: dict[WeightView, list[Patch]] = {}
    for patch in patches:
        groups.setdefault(patch.view, []).append(patch)
    return list(groups.items())


def _split(base: Tensor, group: Sequence[Patch]) -> tuple[Thin, list[Patch]]:
    thin: Thin = []
    thick = []
    for patch in group:
        if (low := patch.algorithm.as_low_rank(base)) is not None:
            thin.append((patch.strength, low))
        else:
            thick.append(patch)
    return thin, thick


def _with_thin(base: Tensor, out: Tensor | None, place: tuple[WeightView, Tensor | None], thin: Thin) -> Tensor | None:
    """All thin deltas at once: the ranks concatenated, scale and strength folded into `up`."""
    if not thin:
        return out
    (view, free), (up, down) = place, _pair(thin)
    if out is None and view == WeightView():
        return _onto(base, up, down, free)
    out = _copy(base, free) if out is None else out
    seen = view.apply(out)
    if seen.ndim == 2:
        seen.addmm_(up, down)
    else:
        seen.add_((up @ down).view(seen.shape))
    return out


def _onto(base: Tensor, up: Tensor, down: Tensor, free: Tensor | None) -> Tensor:
    if free is None:
        return torch.addmm(base.flatten(1), up, down).view(base.shape)
    torch.addmm(base.flatten(1), up, down, out=free.view(len(free), -1))
    return free


def _pair(thin: Thin) -> tuple[Tensor, Tensor]:
    ups = [low.up.float() * (low.scale * strength) for strength, low in thin]
    downs = [low.down.float() for _, low in thin]
    return (ups[0], downs[0]) if len(thin) == 1 else (torch.cat(ups, dim=1), torch.cat(downs))


def _in_half(original: Tensor, patches: Sequence[Patch], into: Tensor | None) -> Tensor | None:
    """One low-rank adapter stored like the weight: the GPU multiplies in half, sums in float32, rounds once."""
    if not (original.is_cuda and original.dtype in (torch.float16, torch.bfloat16)):
        return None
    if len(patches) != 1 or patches[0].view != WeightView() or patches[0].algorithm.needs_weight:
        return None
    low = patches[0].algorithm.as_low_rank(original)
    if low is None or low.up.dtype != original.dtype or low.down.dtype != original.dtype:
        return None
    factor = low.scale * patches[0].strength
    if into is None or into.dtype != original.dtype or not into.is_contiguous():
        out = torch.addmm(original.flatten(1), low.up, low.down, alpha=factor).view(original.shape)
        return out if into is None else into.copy_(out)
    torch.addmm(original.flatten(1), low.up, low.down, alpha=factor, out=into.view(len(into), -1))
    return into


def _in_blocks(original: Tensor, patches: Sequence[Patch], into: Tensor | None) -> Tensor | None:
    """Half and less on the CPU: a block of rows is made float32, summed and rounded while the cache has it."""
    if original.is_cuda or original.dtype == torch.float32 or (products := _products(original, patches)) is None:
        return None
    out, step = torch.empty_like(original) if into is None else into, rows_per_block(original)
    for start in range(0, len(original), step):
        block = original[start : start + step].float()
        for product, strength in products:
            product.rows(start, start + len(block)).add(block, strength)
        out[start : start + step] = block
    return out


def _products(original: Tensor, patches: Sequence[Patch]) -> list[tuple[LazyDelta, float]] | None:
    """The sums of `merged_weight` in its order, where each of them can be had row by row."""
    if not all(patch.view == WeightView() and isinstance(patch.algorithm, AdditiveAlgorithm) for patch in patches):
        return None
    thin, thick = _split(original, patches)
    found: list[tuple[LazyDelta, float]] = [(Matmul(*_pair(thin), 1.0), 1.0)] if thin else []
    for patch in thick:
        if isinstance(patch.algorithm, AdditiveAlgorithm):
            found.append((patch.algorithm.lazy_delta(tuple(original.shape)), patch.strength))
    return found
