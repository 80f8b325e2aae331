"""Memory of weights: mappings for merged weights on the CPU, pinned memory for originals that leave the GPU.

Merged weights come from the system by `mmap`: malloc keeps the memory of freed tensors for the process, whereas a
mapping goes back to the system at once. Huge pages are not asked for: a virtual machine that returns free memory to its
host pays up to five times as much for their first use.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lib_adapters.patching.layers import ParamRef

VRAM_RESERVE = 1.2  # of what is needed: sampling wants memory too
LARGE_BYTES = 1 << 26  # bytes
CHUNK_BYTES = 1 << 25  # bytes of a mapping that several tensors share
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
FREE_DELAY = 0.01  # seconds: whoever let go goes on first


def is_low_on_vram(refs: Iterable[ParamRef]) -> bool:
    """Would a second copy of these parameters leave the GPU without room?"""
    needed = 0
    for ref in refs:
        parameter = ref.parameter()
        if parameter is not None and parameter.is_cuda:
            needed += storage_bytes(parameter)
    return needed > 0 and needed * VRAM_RESERVE > _free()


def _free() -> int:
    """What the driver has left, and what torch holds without using it."""
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def to_pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, from which the way back is fast."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor)


class MappedAllocator:
    """Allocates tensors in anonymous mappings; a mapping is unmapped when the last of its tensors is freed."""

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._used = 0  # bytes of the chunk

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Return an uninitialised tensor like this one, with a storage of its own: in a mapping if it is a contiguous
        CPU tensor, else from torch's allocator.
        """
        size = storage_bytes(tensor)
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or not size:
            return torch.empty_like(tensor)
        if self._chunk is None or self._used + size > len(self._chunk):
            self._chunk, self._used = _mapping(max(size, CHUNK_BYTES)), 0
        found = torch.frombuffer(self._chunk, dtype=torch.uint8, count=size, offset=self._used)
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        return found.view(tensor.dtype).view(tensor.shape)


def _mapping(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def storage_bytes(tensor: Tensor) -> int:
    """Of its elements; torch 2.0, which the web UI 1.6 brings, has no `nbytes`."""
    return tensor.numel() * tensor.element_size()


def free_async(tensors: Sequence[Tensor]) -> None:
    """Free merged weights that are no longer used, in another thread: unmapping gigabytes takes tenths of a second."""
    if sys.is_finalizing():  # no thread can start any more: starting one would wait for ever
        return
    if sum(storage_bytes(tensor) for tensor in tensors if tensor.device.type == "cpu") >= LARGE_BYTES:
        threading.Timer(FREE_DELAY, _free_all, (tensors,)).start()


def _free_all(tensors: Sequence[Tensor]) -> None:
    with torch.inference_mode():  # they may be inference tensors
        for tensor in tensors:
            tensor.set_()  # type: ignore[call-overload]  # unlike the end of a Python object, without the global lock
    trim_heap()


def trim_heap() -> None:
    """Return what malloc keeps of freed temporary tensors to the system, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
