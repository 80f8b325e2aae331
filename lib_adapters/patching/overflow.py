"""Merged weights beyond the range of their type: they are infinite or NaN, and the image is black."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lib_adapters.ops.modes import ordinary
from lib_adapters.ops.product import row_step
from lib_adapters.patching.checksum import samples

_BITS = {1: torch.int8, 2: torch.int16}  # by bytes of an element


@ordinary()
def out_of_range(tensors: Sequence[Tensor]) -> list[bool]:
    """For each, True if it holds infinity or NaN. A GPU is waited for once.

    Types of 8 and 16 bits, whose range a strength can leave, are read whole; of wider ones a few samples are.
    """
    wide = [n for n, tensor in enumerate(tensors) if tensor.element_size() not in _BITS]
    found = dict(zip(wide, (sample.abs().max() for sample in samples([tensors[n] for n in wide])), strict=True))
    largest = [found[n] if n in found else _largest(tensor) for n, tensor in enumerate(tensors)]
    devices: dict[torch.device, list[int]] = {}
    for n, one in enumerate(largest):
        devices.setdefault(one.device, []).append(n)
    finite: dict[int, bool] = {}
    for numbers in devices.values():
        together = torch.stack([largest[n].float() for n in numbers])
        finite.update(zip(numbers, torch.isfinite(together).tolist(), strict=True))
    return [not finite[n] for n in range(len(tensors))]


def _largest(tensor: Tensor) -> Tensor:
    """[], infinite or NaN if any of its elements is."""
    if tensor.is_cuda and tensor.element_size() == 2:
        norm: Tensor = torch.linalg.vector_norm(tensor, math.inf)
        return norm
    bits = _BITS[tensor.element_size()]
    sign = torch.iinfo(bits).max  # all bits but the sign: magnitudes are ordered as their bits are
    step = row_step(tensor) if tensor.ndim else 1
    blocks = torch.split(tensor, step) if tensor.ndim and not tensor.is_cuda else (tensor,)
    highest = torch.stack([(block.contiguous().view(bits) & sign).max() for block in blocks]).max()
    return highest.view(-1).view(tensor.dtype)[0]
