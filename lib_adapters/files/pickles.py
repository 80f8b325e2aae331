"""PyTorch's files (`.pt`, `.ckpt`, `.bin`, `.pth`), old and new, read as data (opcodes.py), never by `torch.load`.

New: a zip of one pickle and one record per storage. Old (before torch 1.6): five pickles, then the storages.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files.entries import ITEM_SIZES, Entry, Source, read_exactly
from lib_adapters.files.load import read_blob, view
from lib_adapters.files.opcodes import Machine, Name
from lib_adapters.files.platforms import open_file
from lib_adapters.files.storages import NAMES, Pickled, Storage, persistent
from lib_adapters.files.ziptable import read_table

_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE = 64_000_000
_MOST_NODES = 300_000
_DEEPEST = 50


@dataclass(frozen=True)
class Tree:
    """What the pickle describes, and where its storages are in the file."""

    root: Any
    starts: dict[str, tuple[int, int]]


def read_pickle(path: str | os.PathLike[str]) -> Any:  # whatever the file holds
    """The object in a PyTorch file, with its tensors on the CPU. Plain containers, numbers, text and tensors only.

    CorruptFile for code and damage, AdapterError where the file cannot be read; both begin with its name.
    """
    where = Path(path)
    try:
        with open_file(where) as file:
            status = os.fstat(file.fileno())
            if not is_pickle(file, status.st_size):
                raise CorruptFile("is not a PyTorch file")
            tree = read_tree(file, status.st_size)
        return _Reader(tree, where, status.st_size, status.st_mtime_ns).filled(tree.root, 0)
    except OSError as error:
        raise AdapterError(f"{where.name} cannot be read: {error.strerror or error}") from error
    except AdapterError as error:
        raise type(error)(f"{where.name} {error}") from error


def is_pickle(file: BinaryIO, size: int) -> bool:
    """True for a zip with a pickle in it and for a pickle of protocol 2 or later. Raise CorruptFile for a bad zip."""
    members = read_table(file, size)
    if members is not None:
        return any(name.endswith("data.pkl") for name in members)
    start = read_exactly(file, 0, 2)
    return start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def read_tree(file: BinaryIO, size: int, machine: type[Machine] = Machine) -> Tree:
    """CorruptFile for code, damage and absurd size; no tensor is read. `machine` for a zip that holds more."""
    members = read_table(file, size)
    if members is None:
        return _old(io.BytesIO(read_exactly(file, 0, _LARGEST_PICKLE)), file, size)
    pickled = [name for name in members if name.endswith("data.pkl")]
    folder = pickled[0].removesuffix("data.pkl")
    start, end = members[pickled[0]]
    if len(pickled) != 1 or end - start > _LARGEST_PICKLE:
        raise CorruptFile("is not a zip that PyTorch wrote; it was not opened")
    order = members.get(f"{folder}byteorder")
    if order and read_exactly(file, order.start, order.end - order.start).strip() != b"little":
        raise CorruptFile("was written on a big-endian machine; save it again as safetensors")
    root = machine(NAMES, persistent).run(io.BytesIO(read_exactly(file, start, end - start)))
    data = f"{folder}data/"
    return Tree(root, {n.removeprefix(data): (m.start, m.end) for n, m in members.items() if n.startswith(data)})


def _old(stream: io.BytesIO, file: BinaryIO, size: int) -> Tree:
    """magic, protocol, system, object, storage keys; then per storage its length and its bytes."""
    types: dict[str, str] = {}

    def remember(identity: Any) -> Storage | Name:
        found = persistent(identity)
        if isinstance(found, Storage):
            types[found.key] = found.dtype or "U8"
        return found

    if _run(stream) != _MAGIC:
        raise CorruptFile("is a Python pickle, but not one that PyTorch wrote")
    _run(stream), _run(stream)
    root = Machine(NAMES, remember).run(stream)
    keys = _run(stream)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys):
        raise CorruptFile("is a damaged PyTorch file (its list of data records is missing); download it again")
    return Tree(root, _old_starts(file, stream.tell(), keys, types, size))


def _run(stream: io.BytesIO) -> Any:
    return Machine(NAMES, persistent).run(stream)


def _old_starts(
    file: BinaryIO, position: int, keys: list[str], types: dict[str, str], size: int
) -> dict[str, tuple[int, int]]:
    starts: dict[str, tuple[int, int]] = {}
    for key in keys:
        raw = read_exactly(file, min(position, size), 8)
        length = struct.unpack("<q", raw)[0] if len(raw) == 8 else -1
        end = position + 8 + length * ITEM_SIZES[types.get(key, "U8")]
        if length < 0 or end > size:
            raise CorruptFile(f"is incomplete: {size} of at least {max(end, position + 8)} bytes; download it again")
        starts[key] = (position + 8, end)
        position = end
    return starts


class _Reader:
    """Puts tensors where the tree has descriptions; shared and circular parts are visited a bounded number of times."""

    def __init__(self, tree: Tree, path: Path, size: int, mtime_ns: int) -> None:
        self._starts = tree.starts
        low = min((start for start, _ in tree.starts.values()), default=0)
        high = max((end for _, end in tree.starts.values()), default=0)
        everything = Source(path, size, mtime_ns, {"": Entry("U8", (high - low,), low, high)})
        self._blob, self._lowest = read_blob(everything)
        self._nodes = 0

    def filled(self, node: Any, depth: int) -> Any:
        self._nodes += 1
        if depth > _DEEPEST or self._nodes > _MOST_NODES:
            raise CorruptFile("is nested absurdly deeply; it was not opened")
        if isinstance(node, Pickled):
            return self._tensor(node)
        if isinstance(node, dict):
            return {key: self.filled(value, depth + 1) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(self.filled(value, depth + 1) for value in node)
        return node if isinstance(node, (str, int, float, bytes)) else None

    def _tensor(self, node: Pickled) -> Tensor:
        return view(self._blob, self._lowest, node.entry(self._starts))
