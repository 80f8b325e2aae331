"""Detection of merged weights that overflow their dtype; infinite or NaN weights give a black image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lib_adapters.ops.lazy_delta import rows_per_block
from lib_adapters.ops.torch_modes import plain_tensors
from lib_adapters.patching.checksum import sample_values

_BITS = {1: torch.int8, 2: torch.int16}  # by bytes of an element


@plain_tensors()
def overflowing(tensors: Sequence[Tensor]) -> list[bool]:
    """Return for each tensor whether it contains infinity or NaN, with one synchronisation per device.

    Tensors of 8 and 16 bits are checked completely, because a high strength can overflow them; wider ones by samples.
    """
    wide = [n for n, tensor in enumerate(tensors) if tensor.element_size() not in _BITS]
    found = dict(zip(wide, (sample.abs().max() for sample in sample_values([tensors[n] for n in wide])), strict=True))
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
    """Return a 0-dimensional tensor that is infinite or NaN if any element is."""
    if tensor.is_cuda and tensor.element_size() == 2:
        norm: Tensor = torch.linalg.vector_norm(tensor, math.inf)
        return norm
    bits = _BITS[tensor.element_size()]
    sign = torch.iinfo(bits).max  # masks the sign: without it, bit patterns are ordered like magnitudes
    step = rows_per_block(tensor) if tensor.ndim else 1
    blocks = torch.split(tensor, step) if tensor.ndim and not tensor.is_cuda else (tensor,)
    highest = torch.stack([(block.contiguous().view(bits) & sign).max() for block in blocks]).max()
    return highest.view(-1).view(tensor.dtype)[0]
