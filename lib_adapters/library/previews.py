"""Previews of cards: the image beside a file, else the one inside it; and saving a new one."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import atomic_write, open_regular_file
from lib_adapters.library import companions
from lib_adapters.library.cards import COVERS, metadata_of
from lib_adapters.library.thumbnail_cache import ThumbnailCache, cache_stamp

MAX_COVERS = 10  # that are tried
MAX_IMAGE_BYTES = 32_000_000  # bytes of a picture that is sent, or lies in a header


def companion_image(path: Path) -> Path | None:
    """The picture or video that cards show."""
    found = companions.Companions.from_path(path).find_preview()
    return companions.companion_path(path, found.suffix) if found else None


def check_image(image: bytes) -> bytes:
    """A PNG of a picture that was sent; AdapterError where it is none."""
    from lib_adapters.library.image_decoding import as_png

    if len(image) > MAX_IMAGE_BYTES:
        raise AdapterError(f"The picture is too large: at most {MAX_IMAGE_BYTES // 1_000_000} MB.")
    return as_png(image)


def save(path: Path, png: bytes) -> None:
    """As the web UI does: under the adapter's name."""
    atomic_write(companions.companion_path(path, companions.WRITTEN_PREVIEW), png)


def thumbnail(path: Path, place: Path) -> bytes | None:
    """A video's poster is the picture inside the adapter, if there is one."""
    thumbs = ThumbnailCache(place)
    there = companions.Companions.from_path(path).find_preview()
    if there is not None and there.kind == "image":
        image = companions.companion_path(path, there.suffix)
        with contextlib.suppress(OSError):  # that it cannot be read now says nothing of the picture: it is not kept
            if made := thumbs.get(str(path), cache_stamp(image), lambda: [_content(image)]):
                return made
    return thumbs.get(f"{path}|cover", cache_stamp(path), lambda: embedded_covers(metadata_of(path)))


def embedded_covers(metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Pictures inside a header: data URLs, or JSON lists of base64."""
    for key in COVERS:
        for text in _texts(metadata.get(key, "")):
            if len(text) < 2 * MAX_IMAGE_BYTES and (image := _decoded(text)):
                yield image


def _texts(value: str) -> list[str]:
    if not value.lstrip().startswith("["):
        return [value] if value else []
    try:
        listed = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return [text for text in listed if isinstance(text, str)][:MAX_COVERS]


def _decoded(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text)
    except (ValueError, binascii.Error):
        return b""


def _content(path: Path) -> bytes:
    with open_regular_file(path) as file:
        return file.read() if path.stat().st_size <= 2 * MAX_IMAGE_BYTES else b""
