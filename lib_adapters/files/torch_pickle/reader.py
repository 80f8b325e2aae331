"""PyTorch files (`.pt`, `.ckpt`, `.bin`, `.pth`), old and new, read as data and never by `torch.load`.

New: a zip of one pickle and one record per storage. Old (before torch 1.6): five pickles, then the storages.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from lib_adapters.errors import AdapterError, CorruptFile, shorten
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.tensor_file import ITEM_SIZES, TensorEntry, TensorFile, read_at
from lib_adapters.files.torch_pickle.tensors import ALLOWED_GLOBALS, PickledStorage, PickledTensor, persistent_load
from lib_adapters.files.torch_pickle.unpickler import Global, SafeUnpickler
from lib_adapters.filesystem import open_regular_file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE_BYTES = 64_000_000
_MAX_NODES = 300_000
_MAX_DEPTH = 50


@dataclass(frozen=True)
class PickleTree:
    """What the pickle describes, and where its storages are in the file."""

    obj: Any
    storage_ranges: dict[str, tuple[int, int]]


def read_pickle(path: str | os.PathLike[str]) -> Any:  # whatever the file holds
    """The object in a PyTorch file, with its tensors on the CPU. Plain containers, numbers, text and tensors only.

    CorruptFile for code and damage, AdapterError where the file cannot be read; both begin with its name.
    """
    where = Path(path)
    try:
        with open_regular_file(where) as file:
            status = os.fstat(file.fileno())
            if not is_torch_pickle(file, status.st_size):
                raise CorruptFile("is not a PyTorch file")
            tree = read_pickle_tree(file, status.st_size)
        return _TensorReader(tree, where, status.st_size, status.st_mtime_ns).fill(tree.obj, 0)
    except OSError as error:
        raise AdapterError(f"{where.name} cannot be read: {error.strerror or error}") from error
    except AdapterError as error:
        raise type(error)(f"{where.name} {error}") from error


def is_torch_pickle(file: BinaryIO, size: int) -> bool:
    """True for a zip with a pickle in it and for a pickle of protocol 2 or later. Raise CorruptFile for a bad zip."""
    members = read_zip_directory(file, size)
    if members is not None:
        return any(name.endswith("data.pkl") for name in members)
    start = read_at(file, 0, 2)
    return start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def read_pickle_tree(file: BinaryIO, size: int, unpickler_class: type[SafeUnpickler] = SafeUnpickler) -> PickleTree:
    """CorruptFile for code, damage and absurd size; no tensor is read. `machine` for a zip that holds more."""
    members = read_zip_directory(file, size)
    if members is None:
        return _read_legacy(io.BytesIO(read_at(file, 0, _MAX_PICKLE_BYTES)), file, size)
    pickled = [name for name in members if name.endswith("data.pkl")]
    folder = pickled[0].removesuffix("data.pkl")
    start, end = members[pickled[0]]
    if len(pickled) != 1 or end - start > _MAX_PICKLE_BYTES:
        raise CorruptFile("is not a zip that PyTorch wrote; it was not opened")
    order = members.get(f"{folder}byteorder")
    if order and read_at(file, order.start, order.end - order.start).strip() != b"little":
        raise CorruptFile("was written on a big-endian machine; save it again as safetensors")
    root = unpickler_class(ALLOWED_GLOBALS, persistent_load).load(io.BytesIO(read_at(file, start, end - start)))
    data = f"{folder}data/"
    return PickleTree(root, {n.removeprefix(data): (m.start, m.end) for n, m in members.items() if n.startswith(data)})


def _read_legacy(stream: io.BytesIO, file: BinaryIO, size: int) -> PickleTree:
    """magic, protocol, system, object, storage keys; then per storage its length and its bytes."""
    types: dict[str, str] = {}

    def remember(identity: Any) -> PickledStorage | Global:
        found = persistent_load(identity)
        if isinstance(found, PickledStorage):
            types[found.key] = found.dtype or "U8"
        return found

    if _load_one(stream) != _LEGACY_MAGIC:
        raise CorruptFile("is a Python pickle, but not one that PyTorch wrote")
    _load_one(stream), _load_one(stream)
    root = SafeUnpickler(ALLOWED_GLOBALS, remember).load(stream)
    keys = _load_one(stream)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys):
        raise CorruptFile("is a damaged PyTorch file (its list of data records is missing); download it again")
    return PickleTree(root, _legacy_storage_ranges(file, stream.tell(), keys, types, size))


def _load_one(stream: io.BytesIO) -> Any:
    return SafeUnpickler(ALLOWED_GLOBALS, persistent_load).load(stream)


def _legacy_storage_ranges(
    file: BinaryIO, position: int, keys: list[str], types: dict[str, str], size: int
) -> dict[str, tuple[int, int]]:
    starts: dict[str, tuple[int, int]] = {}
    for key in keys:
        raw = read_at(file, min(position, size), 8)
        length = struct.unpack("<q", raw)[0] if len(raw) == 8 else -1
        end = position + 8 + length * ITEM_SIZES[types.get(key, "U8")]
        if length < 0 or end > size:
            raise CorruptFile(f"is incomplete: {size} of at least {max(end, position + 8)} bytes; download it again")
        starts[key] = (position + 8, end)
        position = end
    return starts


class _TensorReader:
    """Puts tensors where the tree has descriptions; shared and circular parts are visited a bounded number of times."""

    def __init__(self, tree: PickleTree, path: Path, size: int, mtime_ns: int) -> None:
        self._storage_ranges = tree.storage_ranges
        low = min((start for start, _ in tree.storage_ranges.values()), default=0)
        high = max((end for _, end in tree.storage_ranges.values()), default=0)
        everything = TensorFile(path, size, mtime_ns, {"": TensorEntry("U8", (high - low,), low, high)})
        self._buffer, self._first_byte = read_tensor_bytes(everything)
        self._nodes = 0

    def fill(self, node: Any, depth: int) -> Any:
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise CorruptFile("is nested absurdly deeply; it was not opened")
        if isinstance(node, PickledTensor):
            return self._tensor(node)
        if isinstance(node, dict):
            return {key: self.fill(value, depth + 1) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(self.fill(value, depth + 1) for value in node)
        return node if isinstance(node, (str, int, float, bytes)) else None

    def _tensor(self, node: PickledTensor) -> Tensor:
        return tensor_view(self._buffer, self._first_byte, node.to_entry(self._storage_ranges))


# The central directory of a `.pt` zip, read without trusting it: stored entries only, no more of them than fit.
#
# torch never compresses tensors; a compressed entry is a bomb or somebody's own archive. Only the code of a TorchScript
# archive is compressed; it is never read, so those entries are skipped.


_END_RECORD, _ZIP64_END_RECORD, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_DEFLATED = 8  # the zip format's compression method
_MAX_DIRECTORY_BYTES = 16_000_000  # bytes; a checkpoint with ten thousand tensors needs one
_ABSENT16, _ABSENT32 = 0xFFFF, 0xFFFFFFFF


class ZipMember(NamedTuple):
    """Where an entry's bytes are in the file: the first, and one past the last."""

    start: int
    end: int


def read_zip_directory(file: BinaryIO, size: int) -> dict[str, ZipMember] | None:
    """name -> where its bytes are; None if this is no zip file, CorruptFile if torch cannot have written it."""
    tail_start = max(0, size - 65_557)
    tail = read_at(file, tail_start, size - tail_start)
    at = tail.rfind(_END_RECORD)
    if at < 0 or len(tail) - at < 22:
        return None
    length, offset = struct.unpack("<II", tail[at + 12 : at + 20])
    if _ABSENT32 in (length, offset) or struct.unpack("<H", tail[at + 10 : at + 12])[0] == _ABSENT16:
        length, offset = _zip64_directory(file, tail[max(0, at - 20) : at], size)
    if length > _MAX_DIRECTORY_BYTES or offset + length > size:
        raise CorruptFile("is a damaged zip file: its table of contents is not where it should be")
    return _members(file, read_at(file, offset, length), size)


def _zip64_directory(file: BinaryIO, locator: bytes, size: int) -> tuple[int, int]:
    """zip64: the real numbers are in a record of their own."""
    if len(locator) != 20 or not locator.startswith(_ZIP64_LOCATOR):
        raise CorruptFile("is a damaged zip file: its end record is incomplete")
    record = read_at(file, min(struct.unpack("<Q", locator[8:16])[0], size), 56)
    if len(record) != 56 or not record.startswith(_ZIP64_END_RECORD):
        raise CorruptFile("is a damaged zip file: its end record is incomplete")
    length, offset = struct.unpack("<QQ", record[40:56])
    return length, offset


def _members(file: BinaryIO, directory: bytes, size: int) -> dict[str, ZipMember]:
    found: dict[str, ZipMember] = {}
    position = 0
    while directory[position : position + 4] == b"PK\x01\x02" and len(directory) - position >= 46:
        flags, method = struct.unpack_from("<HH", directory, position + 8)
        packed, plain, name_length, extra_length, comment_length = struct.unpack_from(
            "<IIHHH", directory, position + 20
        )
        offset = struct.unpack_from("<I", directory, position + 42)[0]
        name_end = position + 46 + name_length
        name = directory[position + 46 : name_end].decode("utf-8", "replace")
        extra = directory[name_end : name_end + extra_length]
        packed, plain, offset = _zip64_sizes(extra, packed, plain, offset)
        position = name_end + extra_length + comment_length
        if "/code/" in name and method == _DEFLATED:
            continue
        if flags & 1 or method != 0 or packed != plain:
            raise CorruptFile(
                f"is a compressed or locked archive ({shorten(name)}); PyTorch writes neither, so it was not opened"
            )
        if name in found:
            raise CorruptFile(f"is a damaged zip file: {shorten(name)} is in it twice")
        found[name] = _member(file, name, offset, plain, size)
    return found


def _zip64_sizes(extra: bytes, packed: int, plain: int, offset: int) -> tuple[int, int, int]:
    """zip64 extra field: 8-byte values for those that did not fit, in this order."""
    values = {"plain": plain, "packed": packed, "offset": offset}
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind != 1:
            continue
        for name in values:
            if values[name] == _ABSENT32 and len(body) >= 8:
                values[name], body = struct.unpack_from("<Q", body)[0], body[8:]
    return values["packed"], values["plain"], values["offset"]


def _member(file: BinaryIO, name: str, offset: int, length: int, size: int) -> ZipMember:
    local = read_at(file, min(offset, size), 30)
    if len(local) != 30 or not local.startswith(b"PK\x03\x04"):
        raise CorruptFile(f"is a damaged zip file: {shorten(name)} is not where it should be")
    name_length, extra_length = struct.unpack_from("<HH", local, 26)
    start = offset + 30 + name_length + extra_length
    if start + length > size:
        raise CorruptFile(f"is incomplete: {size} of at least {start + length} bytes; download it again")
    return ZipMember(start, start + length)
