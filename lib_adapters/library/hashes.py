"""Hashes under which sites and infotexts identify a file: of the whole file, and of its tensors."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.files.container import SAFETENSORS_SUFFIXES
from lib_adapters.files.safetensors_header import header_length
from lib_adapters.filesystem import open_regular_file

CHUNK_BYTES = 1 << 20


def file_hashes(path: Path) -> tuple[os.stat_result, dict[str, str]]:
    """With the file's size and time as they were when it was read.

    `autov2` is Civitai's short form; `addnet` is what the web UI writes into pictures: of everything behind the header
    of a safetensors file, so that editing the metadata does not change it.
    """
    whole, tensors = hashlib.sha256(), hashlib.sha256()
    try:
        with open_regular_file(path) as file:
            status = os.fstat(file.fileno())
            length = header_length(file, status.st_size) if path.suffix.lower() in SAFETENSORS_SUFFIXES else None
            file.seek(0)
            if length is not None:
                whole.update(file.read(8 + length))
            while chunk := file.read(CHUNK_BYTES):
                whole.update(chunk)
                tensors.update(chunk)
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    found = {"sha256": whole.hexdigest(), "autov2": whole.hexdigest()[:10]}
    return status, found if length is None else {**found, "addnet": tensors.hexdigest()[:12]}
