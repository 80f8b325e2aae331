"""A strict parser of safetensors headers. It is our own because the host's library accepts damaged files.

Layout: length (u64, little endian), that many bytes of JSON, the tensors' bytes without gaps.
The format's own reader accepts padded and pretty-printed JSON, so we do; like it, we refuse gaps and overlaps.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

from lib_adapters.errors import CorruptFile
from lib_adapters.files.tensor_file import ITEM_SIZES, TensorEntry, numel

MAX_HEADER_BYTES = 100_000_000  # the reference reader's own limit
MAX_STRUCTURE_BYTES = 4_000_000  # bytes of JSON outside strings: 60,000 tensors
MAX_AXIS_SIZE = 1 << 62
MAX_AXES = 16
MAX_NAME_LENGTH = 1000


def header_length(file: BinaryIO, size: int) -> int | None:
    """The header's length in bytes if this can be a safetensors file (complete or cut off), else None."""
    start = file.read(9)
    if len(start) < 9:
        return None
    length = int(struct.unpack("<Q", start[:8])[0])
    plausible = 2 <= length <= MAX_HEADER_BYTES and start[8:9] in b"{ \t\r\n"
    return length if plausible else None


def read_header(file: BinaryIO, size: int, length: int) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Tensors and metadata; every offset has been checked against the file's size, in bytes. CorruptFile for damage."""
    if length > size - 8:
        raise CorruptFile(f"is incomplete: {size} of at least {length + 8} bytes; download it again")
    file.seek(8)
    table, metadata = _parse(file.read(length))
    entries = {name: _entry(name, raw, 8 + length) for name, raw in table.items()}
    _check_cover(entries, 8 + length, size)
    return entries, metadata


def split_metadata(raw: bytes) -> tuple[dict[str, str], str] | None:
    """(metadata, the text of everything else); None where that takes more than looking at the header's start.

    Files of one trainer and one setting differ in nothing but the first.
    """
    try:
        text = raw.decode("utf-8")
        if not text.startswith(_METADATA_START):
            return ({}, text.rstrip()) if '"__metadata__"' not in text else None
        table, end = _DECODER.raw_decode(text, len(_METADATA_START))
        return (_metadata(table), text[end:].rstrip()) if isinstance(table, dict) else None
    except (ValueError, RecursionError):
        return None


def _parse(raw: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    if len(raw) > MAX_STRUCTURE_BYTES and _structure(raw) > MAX_STRUCTURE_BYTES:
        raise CorruptFile("has an absurdly large header; it is not a usable safetensors file")
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        metadata = _metadata(table.pop("__metadata__", None)) if isinstance(table, dict) else {}
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"has a damaged safetensors header ({_brief(error)}); download it again") from error
    if not isinstance(table, dict):
        raise CorruptFile("has a damaged safetensors header (it is not a table of tensors); download it again")
    return table, metadata


def _brief(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _structure(raw: bytes) -> int:
    """Bytes of JSON outside strings: what parsing turns into many small objects."""
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > MAX_STRUCTURE_BYTES:
        return len(raw)
    return sum(len(part) for part in plain.split(b'"')[::2])


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} appears twice")
    return table


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


_METADATA_START = '{"__metadata__":'
_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _metadata(raw: object) -> dict[str, str]:
    """Values that are not strings are kept as JSON: some writers forget the rule."""
    if not isinstance(raw, dict):
        return {}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in raw.items()}


def _entry(name: str, raw: object, data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME_LENGTH or not is_encodable(name):
        raise CorruptFile("has a damaged header: a tensor's name is absurdly long, or no text")
    try:
        dtype, shape, (first, last) = raw["dtype"], raw["shape"], raw["data_offsets"]  # type: ignore[index]
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFile(f"has a damaged header: the entry of {name[:120]!r} is not a tensor") from error
    if not (
        type(dtype) is str and type(first) is int and type(last) is int and 0 <= first <= last and _is_shape(shape)
    ):
        raise CorruptFile(f"has a damaged header: the shape or the offsets of {name[:120]!r} are impossible")
    size = ITEM_SIZES.get(dtype)
    if size is not None and numel(tuple(shape)) * size != last - first:
        raise CorruptFile(f"has a damaged header: {name[:120]!r} needs another number of bytes than it has")
    return TensorEntry(dtype, tuple(shape), data_start + first, data_start + last)


def is_encodable(name: str) -> bool:
    """Halves of emojis are letters to Python's JSON, but nothing that can be written anywhere."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_shape(shape: object) -> bool:
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        return False
    return not shape or (set(map(type, shape)) == {int} and min(shape) >= 0 and max(shape) < MAX_AXIS_SIZE)


def _check_cover(entries: dict[str, TensorEntry], data_start: int, size: int) -> None:
    """Gapless, no overlap, up to the last byte of the file."""
    position = data_start
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.end)):
        if entry.start != position:
            raise CorruptFile("has a damaged header: the tensors overlap or leave a gap")
        position = entry.end
    if position > size:
        raise CorruptFile(f"is incomplete: {size} of {position} bytes; download it again")
    if position < size:
        raise CorruptFile(f"has {size - position} bytes too many behind its tensors; download it again")
