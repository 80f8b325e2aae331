"""What a process holds: tensors, memory, hooks, threads, open files. Counted, so that nothing grows unseen."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from tests.support.tiny_model_pair import traces

MARGIN = 32 << 20  # bytes of memory that an allocator may keep for itself


@dataclass(frozen=True)
class Footprint:
    storages: int
    tensor_bytes: int
    traces: int  # hooks and forwards on the models
    threads: int
    files: int

    @classmethod
    def now(cls, models: Iterable[nn.Module] = ()) -> Footprint:
        gc.collect()
        alive = storages()
        process = psutil.Process()
        files = process.num_handles() if sys.platform == "win32" else process.num_fds()
        hooks = sum(traces(model) for model in models)
        return cls(len(alive), sum(alive.values()), hooks, threading.active_count(), files)


def storages() -> dict[int, int]:
    """The memory of all tensors that Python can reach, each once: address -> bytes."""
    found: dict[int, int] = {}
    for one in gc.get_objects():
        if issubclass(type(one), Tensor) and one.layout == torch.strided:
            storage = one.untyped_storage()
            if storage.device.type != "meta":  # a fake tensor of torch.compile says "cpu", but its storage does not
                found[storage.data_ptr()] = storage.nbytes()
    return found


def resident() -> int:
    """Bytes of memory, without what the C library has free."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
