"""Where targets put their files: one folder for the process, gone with it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

MEMORY = "/dev/shm"  # where Linux has files that are on no disk


@functools.cache
def _made() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="lycoris-fuzz-", dir=MEMORY if Path(MEMORY).is_dir() else None, ignore_cleanup_errors=True
    )


def folder(target: str = "") -> Path:
    """Each target has a part of its own: what one leaves there is not found by another."""
    path = Path(_made().name, target)
    path.mkdir(exist_ok=True)
    return path


def put(target: str, name: str, content: bytes) -> Path:
    path = folder(target) / name
    path.write_bytes(content)
    return path
