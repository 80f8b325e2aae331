"""Where pristine tensors wait when the GPU has no room for both them and their patched copies."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lib_adapters.patching.targets import Slot

RESERVE = 1.2  # of what is needed: sampling wants memory too
LARGE = 1 << 26  # bytes
SOON = 0.01  # seconds: whoever let go goes on first


def is_short(slots: Iterable[Slot]) -> bool:
    """Would a second copy of these parameters leave the GPU without room?"""
    needed = 0
    for slot in slots:
        parameter = slot.parameter()
        if parameter is not None and parameter.is_cuda:
            needed += bytes_of(parameter)
    return needed > 0 and needed * RESERVE > _free()


def _free() -> int:
    """What the driver has left, and what torch holds without using it."""
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def to_host(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, from which the way back is fast."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor)


def bytes_of(tensor: Tensor) -> int:
    """Of its elements; torch 2.0, which the web UI 1.6 brings, has no `nbytes`."""
    return tensor.numel() * tensor.element_size()


def let_go(tensors: Sequence[Tensor]) -> None:
    """Free what nobody needs any more. Handing gigabytes back takes the system long: nobody has to wait for it."""
    if sum(bytes_of(tensor) for tensor in tensors if tensor.device.type == "cpu") >= LARGE:
        threading.Timer(SOON, _empty, (tensors,)).start()


def _empty(tensors: Sequence[Tensor]) -> None:
    with torch.inference_mode():  # they may be inference tensors
        for tensor in tensors:
            tensor.set_()  # type: ignore[call-overload]  # unlike the end of a Python object, without the global lock
