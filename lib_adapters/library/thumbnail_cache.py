"""A cache of thumbnails on disk. An image without one is stored as an empty file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import atomic_write


def cache_stamp(path: Path) -> str:
    """Another one when the file is; "gone" where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return "gone"
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


class ThumbnailCache:
    """The small pictures in one folder, as WebP."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def get(self, source: str, stamp: str, images: Callable[[], Iterable[bytes]]) -> bytes | None:
        """The kept one if it is of this stamp, else one of the first image that can be decoded."""
        key = hashlib.sha256(os.fsencode(source)).hexdigest()[:32]
        file = self._place / key[:2] / f"{key}-{stamp}.webp"
        try:
            return file.read_bytes() or None
        except OSError:
            made = _first(images())
            self._keep(file, key, made or b"")
            return made

    def _keep(self, file: Path, key: str, content: bytes) -> None:
        """Instead of the older ones of the same source. Where nothing can be written, it is made each time."""
        with contextlib.suppress(OSError, AdapterError):
            file.parent.mkdir(parents=True, exist_ok=True)
            for older in file.parent.glob(f"{key}-*.webp"):
                older.unlink(missing_ok=True)
            atomic_write(file, content, sync=False)


def _first(images: Iterable[bytes]) -> bytes | None:
    from lib_adapters.library.image_decoding import make_thumbnail  # the only need for PIL

    return next(filter(None, map(make_thumbnail, images)), None)
