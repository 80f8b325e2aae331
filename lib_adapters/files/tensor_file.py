"""The index of an opened file: dtype, shape and byte range of each tensor, for any container."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from lib_adapters.algorithms.base import Shape

ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorEntry(NamedTuple):
    """One tensor: safetensors' dtype name, shape, and its bytes counted from the start of the file."""

    dtype: str
    shape: Shape
    start: int
    end: int
    stride: Shape | None = None  # elements; None = contiguous


@dataclass(frozen=True)
class TensorFile:
    """A file whose tensors are known, but not read; `size` is in bytes."""

    path: Path
    size: int
    mtime_ns: int
    entries: dict[str, TensorEntry]
    metadata: dict[str, str] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)  # plain numbers that a pickle kept beside its tensors
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(entry.end - entry.start for entry in self.entries.values())


def torch_dtype(name: str) -> torch.dtype | None:
    """None where this torch has no such type (unsigned 16-64 bit before 2.3)."""
    found = getattr(torch, _TORCH_NAMES.get(name, "?"), None)
    return found if isinstance(found, torch.dtype) else None


def read_at(file: BinaryIO, start: int, length: int) -> bytes:
    """`length` bytes from byte `start` on; fewer where the file ends before."""
    file.seek(start)
    return file.read(length)


def numel(shape: Shape) -> int:
    """How many elements a tensor of this shape has."""
    return math.prod(shape)
