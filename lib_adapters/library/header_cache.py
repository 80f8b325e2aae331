"""Summaries of headers that differ only in metadata, computed once for all files of one trainer and setting.

Their headers are the same text but for the metadata; ten thousand files have a few hundred texts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding, open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import Hypernetwork, open_hypernetwork
from lib_adapters.errors import AestheticFile, HypernetworkFile
from lib_adapters.files import safetensors_header, unsupported
from lib_adapters.files.adapter import Adapter, open_adapter, sample_layers
from lib_adapters.files.loading import decode_scalar
from lib_adapters.files.tensor_file import TensorEntry, read_at
from lib_adapters.filesystem import open_regular_file

MAX_TEMPLATES = 512  # layouts remembered
MAX_HEADER_BYTES = 4_000_000  # bytes of a header; larger ones are checked more strictly
# All metadata that the engine asks for what is remembered here: family, algorithms, rank, parts.
DECIDING_KEYS = ("ss_base_model_version", "modelspec.architecture", "ss_v2", "unet", "text_encoder")


@dataclass(frozen=True)
class FileSummary:
    """What the header says, as far as cards show it."""

    family: str
    algorithms: tuple[str, ...]
    rank: int | None
    alpha: float | None
    parts: tuple[str, ...]
    metadata: Mapping[str, str]
    kind: str = ""  # of tag, where it is not an adapter's


@dataclass(frozen=True)
class ParsedHeader:
    """A header, read but not understood."""

    layout: bytes
    metadata: Mapping[str, str]
    data: int  # where the tensors begin


@dataclass(frozen=True)
class HeaderTemplate:
    """What all files of one layout have in common."""

    content: FileSummary  # without metadata
    alphas: tuple[TensorEntry, ...]  # of the layers whose alpha is looked at, counted from where the tensors begin


class HeaderCache:
    """One for each round of indexing, so that nothing of it is kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, HeaderTemplate] = {}

    def summarize(self, path: Path) -> FileSummary:
        """As `open_adapter` tells it; its AdapterError where the file cannot be used."""
        try:
            return self._of_adapter(path)
        except HypernetworkFile:
            return hypernetwork_summary(open_hypernetwork(path))
        except AestheticFile:
            return aesthetic_summary(open_aesthetic(path))

    def _of_adapter(self, path: Path) -> FileSummary:
        start = None if path.with_name("adapter_config.json").exists() else _start(path)
        if start is None:
            return _content(open_adapter(path))
        known = self._known.pop(start.layout, None)
        if known is None:
            adapter = open_adapter(path)
            known = HeaderTemplate(replace(_content(adapter), metadata={}), tuple(_alphas(adapter, start.data)))
        self._known[start.layout] = known  # the last used at the end
        if len(self._known) > MAX_TEMPLATES:
            del self._known[next(iter(self._known))]
        return replace(known.content, metadata=start.metadata, alpha=_alpha(path, start.data, known.alphas))


def hypernetwork_summary(found: Hypernetwork) -> FileSummary:
    """What its trainer wrote beside the nets stands where an adapter has metadata."""
    fields = {key: str(value) for key, value in found.fields.items() if value not in (None, "")}
    return FileSummary(found.family, ("Hypernetwork",), None, None, ("unet",), fields, "hypernet")


def aesthetic_summary(found: AestheticEmbedding) -> FileSummary:
    """A file that names no base is for the one whose text encoder has features of its width."""
    return FileSummary(found.family, ("Aesthetic",), None, None, ("te",), found.metadata, "aesthetic")


def _content(adapter: Adapter) -> FileSummary:
    algorithms = tuple(adapter.algorithms)
    return FileSummary(adapter.family, algorithms, adapter.rank, adapter.alpha, adapter.components, adapter.metadata)


def _start(path: Path) -> ParsedHeader | None:
    """None for what is no safetensors file of the usual kind: it is read as a whole."""
    try:
        with open_regular_file(path) as file:
            return _read(file)
    except OSError:
        return None


def _read(file: BinaryIO) -> ParsedHeader | None:
    size = os.fstat(file.fileno()).st_size
    length = safetensors_header.header_length(file, size)
    if length is None or length > min(MAX_HEADER_BYTES, size - 8):
        return None
    split = safetensors_header.split_metadata(read_at(file, 8, length))
    if split is None or "lora_adapter_metadata" in split[0]:
        return None  # what PEFT and diffusers write there stands for numbers in the file
    metadata, rest = split
    deciding = [metadata.get(key) for key in DECIDING_KEYS]
    key = hashlib.blake2b(repr((deciding, size - length)).encode("utf-8", "replace") + rest.encode("utf-8")).digest()
    return ParsedHeader(key, metadata, 8 + length)


def _alphas(adapter: Adapter, data: int) -> Iterator[TensorEntry]:
    for module in sample_layers(adapter.layers):
        entry = adapter.tensor_file.entries.get(module.tensor_keys.get("alpha", ""))
        if entry is not None:
            yield entry._replace(start=entry.start - data, end=entry.end - data)


def _alpha(path: Path, data: int, entries: Iterable[TensorEntry]) -> float | None:
    """None too where the file went away just now: that will be told at the next round."""
    try:
        with open_regular_file(path, buffering=0) as file:
            return unsupported.most_common(
                decode_scalar(entry, read_at(file, data + entry.start, entry.end - entry.start)) for entry in entries
            )
    except OSError:
        return None
