"""The central directory of a `.pt` zip, read without trusting it: stored entries only, no more of them than fit.

torch never compresses tensors; a compressed entry is a bomb or somebody's own archive. Only the code of a TorchScript
archive is compressed; it is never read, so those entries are skipped.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from lib_adapters.errors import CorruptFile, shorten
from lib_adapters.files.entries import read_exactly

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_DEFLATED = 8  # the zip format's compression method
_LARGEST_DIRECTORY = 16_000_000  # bytes; a checkpoint with ten thousand tensors needs one
_ABSENT16, _ABSENT32 = 0xFFFF, 0xFFFFFFFF


class Member(NamedTuple):
    """Where an entry's bytes are in the file: the first, and one past the last."""

    start: int
    end: int


def read_table(file: BinaryIO, size: int) -> dict[str, Member] | None:
    """name -> where its bytes are; None if this is no zip file, CorruptFile if torch cannot have written it."""
    tail_start = max(0, size - 65_557)
    tail = read_exactly(file, tail_start, size - tail_start)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        return None
    length, offset = struct.unpack("<II", tail[at + 12 : at + 20])
    if _ABSENT32 in (length, offset) or struct.unpack("<H", tail[at + 10 : at + 12])[0] == _ABSENT16:
        length, offset = _large(file, tail[max(0, at - 20) : at], size)
    if length > _LARGEST_DIRECTORY or offset + length > size:
        raise CorruptFile("is a damaged zip file: its table of contents is not where it should be")
    return _members(file, read_exactly(file, offset, length), size)


def _large(file: BinaryIO, locator: bytes, size: int) -> tuple[int, int]:
    """zip64: the real numbers are in a record of their own."""
    if len(locator) != 20 or not locator.startswith(_LOCATOR):
        raise CorruptFile("is a damaged zip file: its end record is incomplete")
    record = read_exactly(file, min(struct.unpack("<Q", locator[8:16])[0], size), 56)
    if len(record) != 56 or not record.startswith(_END64):
        raise CorruptFile("is a damaged zip file: its end record is incomplete")
    length, offset = struct.unpack("<QQ", record[40:56])
    return length, offset


def _members(file: BinaryIO, directory: bytes, size: int) -> dict[str, Member]:
    found: dict[str, Member] = {}
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
        packed, plain, offset = _wide(extra, packed, plain, offset)
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


def _wide(extra: bytes, packed: int, plain: int, offset: int) -> tuple[int, int, int]:
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


def _member(file: BinaryIO, name: str, offset: int, length: int, size: int) -> Member:
    local = read_exactly(file, min(offset, size), 30)
    if len(local) != 30 or not local.startswith(b"PK\x03\x04"):
        raise CorruptFile(f"is a damaged zip file: {shorten(name)} is not where it should be")
    name_length, extra_length = struct.unpack_from("<HH", local, 26)
    start = offset + 30 + name_length + extra_length
    if start + length > size:
        raise CorruptFile(f"is incomplete: {size} of at least {start + length} bytes; download it again")
    return Member(start, start + length)
