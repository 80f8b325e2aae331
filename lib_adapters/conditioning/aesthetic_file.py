"""Aesthetic embedding files: mean CLIP features of a set of images.

Files: one bare tensor [d] or [n, d] in a `.pt`, any float type, not normalised (Gallego 2022, arXiv:2209.12330), and a
safetensors form of our own with that tensor under one name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_adapters.errors import AdapterError, CorruptFile, UnsupportedFile
from lib_adapters.files.container import SAFETENSORS_SUFFIXES, open_tensor_file
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.torch_pickle.reader import read_pickle
from lib_adapters.files.unsupported import AESTHETIC_KEY
from lib_adapters.filesystem import replace_with_retry
from lib_adapters.ops.torch_modes import plain_tensors

FORMAT = "lycoris-aesthetic"
_MAX_FILE_BYTES = 64_000_000  # bytes; a bigger file of this name is a checkpoint, and reading it would only take long
_MAX_WIDTH = 8192
_FAMILY_BY_WIDTH = {768: "sd1", 1024: "sd2", 1280: "sdxl"}  # CLIP-L's feature is SDXL's first encoder's too


@dataclass(frozen=True, eq=False)
class AestheticEmbedding:
    """One file, read whole."""

    path: Path
    name: str  # the file's stem: what tags say
    cache_key: str  # what it is in caches: path, size and time of change
    vectors: Tensor  # [n, d] as in the file, on the CPU
    metadata: Mapping[str, str]

    @property
    def width(self) -> int:
        """d, the numbers of a vector."""
        return int(self.vectors.shape[1])

    @property
    def family(self) -> str:
        """The base whose (first) text encoder has features of this width."""
        return _FAMILY_BY_WIDTH.get(self.width, "unknown")


@plain_tensors()
def open_aesthetic(path: str | os.PathLike[str]) -> AestheticEmbedding:
    """AdapterError (one sentence, with the file's name) if the file cannot be used. Code in a pickle is never run.

    UnsupportedFile where the tensor is not [d] or [n, d], CorruptFile for NaN, zeros and damage.
    """
    where = Path(path)
    try:
        status = where.stat()
        if status.st_size > _MAX_FILE_BYTES:
            raise UnsupportedFile(f"is no aesthetic embedding: {status.st_size / 1e6:.0f} MB are far too much for one")
        read = _from_safetensors if where.suffix.lower() in SAFETENSORS_SUFFIXES else _from_pickle
        vectors, metadata = read(where)
        key = f"{where.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        return AestheticEmbedding(where, where.stem, key, _checked(vectors), metadata)
    except OSError as error:
        raise AdapterError(f"{where.name} cannot be read: {error.strerror or error}") from error
    except AdapterError as error:
        if str(error).startswith(where.name):
            raise
        raise type(error)(f"{where.name} {error}") from error


def save_aesthetic(vectors: Tensor, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """[d] or [n, d], as safetensors or, by the name's ending `.pt`, as a bare tensor; whole or not at all."""
    kept = vectors.detach().cpu().clone()
    part = path.with_name(f"{path.name}.part")
    try:
        if path.suffix.lower() in SAFETENSORS_SUFFIXES:
            save_file({AESTHETIC_KEY: kept}, part, {**(metadata or {}), "format": FORMAT})
        else:
            torch.save(kept, part)
        replace_with_retry(part, path)
    finally:
        part.unlink(missing_ok=True)


def _from_pickle(path: Path) -> tuple[object, dict[str, str]]:
    return read_pickle(path), {}


def _from_safetensors(path: Path) -> tuple[object, dict[str, str]]:
    source = open_tensor_file(path)
    if list(source.entries) != [AESTHETIC_KEY]:
        raise UnsupportedFile("is no aesthetic embedding: those come as .pt, or as `convert` of this bundle saves them")
    blob, lowest = read_tensor_bytes(source)
    metadata = {key: str(value) for key, value in source.metadata.items() if key != "format"}
    return tensor_view(blob, lowest, source.entries[AESTHETIC_KEY]), metadata


def _checked(found: object) -> Tensor:
    if not isinstance(found, Tensor):
        raise UnsupportedFile("is no aesthetic embedding: it does not hold one bare tensor")
    shape = list(found.shape)
    if (
        not found.is_floating_point()
        or found.ndim not in (1, 2)
        or not 1 < shape[-1] <= _MAX_WIDTH
        or not found.numel()
    ):
        raise UnsupportedFile(f"is no aesthetic embedding: its tensor is {shape} of {found.dtype}, not [d] or [n, d]")
    vectors = found.reshape(-1, shape[-1])
    if not bool(torch.isfinite(vectors.float()).all()):
        raise CorruptFile("holds NaN or infinity; make it again, or download it again")
    if not bool(vectors.float().norm(dim=-1).all()):
        raise CorruptFile("holds a vector of zeros, which points nowhere; make it again")
    return vectors.clone()
