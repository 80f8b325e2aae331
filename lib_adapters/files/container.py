"""Opening of a file of any container format, detected by parsing and not by its name or first bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files import safetensors_header
from lib_adapters.files.tensor_file import TensorFile, read_at
from lib_adapters.files.torch_pickle import reader, state_dict
from lib_adapters.filesystem import PATH_TOO_LONG, is_path_too_long, open_regular_file

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")


def open_tensor_file(path: Path) -> TensorFile:
    """Header only. Errors say what is wrong, but not yet with which file (open_adapter adds the name)."""
    if not path.exists():
        gone = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise AdapterError(PATH_TOO_LONG if is_path_too_long(str(path.absolute())) else gone)
    if path.is_dir():
        raise AdapterError("is a folder; name the file inside it")
    try:
        with open_regular_file(path) as file:
            status = os.fstat(file.fileno())
            return _read(file, path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path, size: int, mtime_ns: int) -> TensorFile:
    if size == 0:
        raise CorruptFile("is empty (zero bytes); download it again")
    length = safetensors_header.header_length(file, size)
    if length is not None:
        entries, metadata = safetensors_header.read_header(file, size, length)
        return TensorFile(path, size, mtime_ns, entries, metadata)
    if not reader.is_torch_pickle(file, size):
        raise CorruptFile(_not_an_adapter(read_at(file, 0, 1024), size))
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        raise CorruptFile("is a PyTorch pickle under the name of a safetensors file; it was not opened")
    tree = reader.read_pickle_tree(file, size)
    return state_dict.tensor_file_from_tree(tree, path, size, mtime_ns)


_KNOWN_CONTENTS = (
    ((b"<!doctype", b"<html", b"<?xml", b"<head"), "is a web page: the download needs a login or the link is wrong"),
    ((b"version https://git-lfs",), "is a git-lfs pointer, not the file itself; fetch it with 'git lfs pull'"),
    ((b"pk\x03\x04",), "is an archive without PyTorch data, or an incomplete download; unpack it or download it again"),
    ((b"7z\xbc\xaf", b"rar!", b"\x1f\x8b"), "is an archive, not an adapter; unpack it first"),
    ((b"{", b"["), "is a JSON text, not an adapter"),
)


def _not_an_adapter(start: bytes, size: int) -> str:
    """What else people find under an adapter's name."""
    text = start.lstrip().lower()
    for signs, sentence in _KNOWN_CONTENTS:
        if text.startswith(signs):
            return sentence
    if size < 10 or not start.strip(b"\0"):
        return f"is incomplete: {size} bytes that hold no header; download it again"
    return "is neither a safetensors file nor a PyTorch file; download it again"
