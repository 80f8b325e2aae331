"""What may lie beside an adapter file, under its name: texts about it, and its picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

SIDECAR = ".json"  # the web UI's own, the only one that is ever written
CIVITAI = (".civitai.info", ".cm-info.json")
DESCRIPTIONS = (".txt", ".description.txt")  # the web UI's older place
IMAGES = ("png", "jpg", "jpeg", "webp", "gif")
VIDEOS = ("mp4", "webm")
PREVIEWS = tuple(f"{start}.{kind}" for kind in (*IMAGES, *VIDEOS) for start in ("", ".preview"))
WRITTEN_PREVIEW = PREVIEWS[0]
SUFFIXES = (SIDECAR, *CIVITAI, *DESCRIPTIONS, *PREVIEWS)


class Preview(NamedTuple):
    suffix: str
    kind: str  # "image" or "video"
    version: str


def at(path: Path, suffix: str) -> Path:
    return path.with_name(path.stem + suffix)


def stamps(listing: Mapping[str, os.DirEntry[str]]) -> dict[str, str]:
    """By stem: which of them are there, how large and how old, in one word each."""
    found: dict[str, list[str]] = {}
    for name in listing:
        for suffix in SUFFIXES if name.endswith(SUFFIXES) else ():
            if name.endswith(suffix):
                found.setdefault(name[: -len(suffix)], []).append(suffix)
    return {stem: _words((suffix, listing[stem + suffix].stat) for suffix in there) for stem, there in found.items()}


def stamp_at(path: Path) -> str:
    return _words((suffix, there.stat) for suffix in SUFFIXES if (there := at(path, suffix)).is_file())


def preview_of(stamped: str) -> Preview | None:
    """The picture that a stamp names; of several the first in the order of `PREVIEWS`."""
    there = dict(word.split(":", 1) for word in stamped.split())
    suffix = next((suffix for suffix in PREVIEWS if suffix in there), None)
    if suffix is None:
        return None
    return Preview(suffix, "video" if suffix.endswith(VIDEOS) else "image", there[suffix].replace(":", "-"))


def _words(found: Iterable[tuple[str, Callable[[], os.stat_result]]]) -> str:
    """In an order that the folder's own does not change."""
    words = []
    for suffix, status_of in sorted(found, key=lambda pair: pair[0]):
        try:
            status = status_of()
        except OSError:  # gone meanwhile, or a link to nothing
            continue
        words.append(f"{suffix}:{status.st_size:x}:{status.st_mtime_ns:x}")
    return " ".join(words)
