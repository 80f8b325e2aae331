"""Single numbers read straight from the file, so that opening an adapter needs no tensor library."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from lib_adapters.files.entries import Entry, Source
from lib_adapters.files.modules import Module
from lib_adapters.files.platforms import open_file

_FORMATS = {
    "F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b",
    "U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B", "BOOL": "<?",
}  # fmt: skip


def read_numbers(source: Source, modules: Iterable[Module], leaf: str) -> Iterator[float]:
    """The value of `leaf` in every module that has it."""
    with open_file(source.path, buffering=0) as file:
        for module in modules:
            if leaf in module.constants:
                yield module.constants[leaf]
            key = module.leaves.get(leaf, "")
            if key in source.numbers:
                yield source.numbers[key]
            elif key in source.entries:
                entry = source.entries[key]
                file.seek(entry.start)
                number = decode(entry, file.read(entry.end - entry.start))
                if number is not None:
                    yield number


def decode(entry: Entry, raw: bytes) -> float | None:
    """None for types that have no number of their own (float8) and for a file that became shorter."""
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0]) if len(raw) == 2 else None
    form = _FORMATS.get(entry.dtype)
    if form is None or struct.calcsize(form) != len(raw):
        return None
    return float(struct.unpack(form, raw)[0])
