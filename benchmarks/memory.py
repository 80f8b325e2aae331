"""What an operation costs in bytes: tensors that are there afterwards, and the process' peak while it ran."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_adapters.patching.memory import trim_heap

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Bytes:
    kept: int
    peak: int | None  # None where the system does not tell


def resident(device: torch.device) -> int:
    """Return the bytes that the process has in memory, or torch on the GPU; 0 where the system does not tell."""
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS") or 0


def reset_peak(device: torch.device) -> None:
    """Let `peak` begin with what is in memory now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        _reset_peak()


def peak(device: torch.device) -> int:
    """Return the most bytes that were in memory since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM") or 0


def of(operation: Callable[[], object], device: torch.device) -> Bytes:
    return _on_gpu(operation) if device.type == "cuda" else _on_cpu(operation)


def _on_gpu(operation: Callable[[], object]) -> Bytes:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    operation()
    torch.cuda.synchronize()
    return Bytes(torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before)


def _on_cpu(operation: Callable[[], object]) -> Bytes:
    before = _settled()
    hand_back()
    resident = _reset_peak()
    operation()
    peak = _status("VmHWM")
    grown = None if resident is None or peak is None else peak - resident
    return Bytes(tensor_bytes() - before, grown)


def _settled() -> int:
    """Tensor bytes once nothing is being freed any more in another thread."""
    before, now = -1, tensor_bytes()
    while now != before:
        time.sleep(0.02)
        before, now = now, tensor_bytes()
    return now


def hand_back() -> None:
    """Give what the allocator keeps back to the system: who runs next finds memory as fresh as who ran before."""
    trim_heap()


def tensor_bytes() -> int:
    """All storages that a live tensor of this process holds, each once."""
    sizes: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _reset_peak() -> int | None:
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    return int(lines[field].split()[0]) * 1024 if field in lines else None
