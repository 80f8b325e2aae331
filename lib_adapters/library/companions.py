"""Companion files beside an adapter: texts, JSON and its preview."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lib_adapters.files.training_metadata import read_json_file
from lib_adapters.filesystem import casefold_name, decode_text, open_regular_file

SIDECAR = ".json"  # the web UI's own, the only one that is ever written
CIVITAI = (".civitai.info", ".cm-info.json")
DESCRIPTIONS = (".txt", ".description.txt")  # the web UI's older place
IMAGES = ("png", "jpg", "jpeg", "webp", "gif")
VIDEOS = ("mp4", "webm")
PREVIEWS = tuple(f"{start}.{kind}" for kind in (*IMAGES, *VIDEOS) for start in ("", ".preview"))
MAX_CHARACTERS = 100_000  # letters of a text
WRITTEN_PREVIEW = PREVIEWS[0]
SUFFIXES = (SIDECAR, *CIVITAI, *DESCRIPTIONS, *PREVIEWS)
_KNOWN = frozenset(SUFFIXES)


class Preview(NamedTuple):
    """The picture beside an adapter; `version` changes when it does."""

    suffix: str
    kind: str  # "image" or "video"
    version: str


def companion_path(path: Path, suffix: str) -> Path:
    """What lies beside an adapter under this suffix, there or not."""
    return path.with_name(path.stem + suffix)


def companion_stamps(listing: Mapping[str, os.DirEntry[str]]) -> dict[str, str]:
    """By stem: which of them are there, how large and how old, in one word each."""
    found: dict[str, list[str]] = {}
    for name in listing:
        for suffix in _suffixes(name):
            found.setdefault(name[: -len(suffix)], []).append(suffix)
    return {stem: _words((suffix, listing[stem + suffix].stat) for suffix in there) for stem, there in found.items()}


def _suffixes(name: str) -> list[str]:
    """Return those of `SUFFIXES` that end the name: each of them begins with its last dot or the one before."""
    last = name.rfind(".")
    starts = [last, name.rfind(".", 0, last)] if last > 0 else [last]
    return [suffix for at in starts if at >= 0 and (suffix := name[at:]) in _KNOWN]


def case_mismatched(listing: Mapping[str, object], stems: Collection[str]) -> set[str]:
    """Of the adapters `stems`: beside which a file may lie that only Windows or macOS takes for theirs (`INK.Png`)."""
    plain = {key: stem for stem in stems for key in [casefold_name(stem)]}
    odd = set()
    for name in listing:
        low = casefold_name(name)
        for suffix in _suffixes(low):
            stem = plain.get(low.removesuffix(suffix))
            if stem is not None and name != stem + suffix:
                odd.add(stem)
    return odd


def read_stamp(path: Path) -> str:
    """As `stamps`, for one adapter; "" where nothing is beside it."""
    return _words((suffix, there.stat) for suffix in SUFFIXES if (there := companion_path(path, suffix)).is_file())


@dataclass(frozen=True)
class Companions:
    """What a stamp names, to be read. What it does not name is not looked for."""

    path: Path  # of the adapter
    stamp: str

    @staticmethod
    def from_path(path: Path) -> Companions:
        """With a stamp of this moment."""
        return Companions(path, read_stamp(path))

    def read_json(self, suffix: str) -> dict[str, Any]:
        """The object in a JSON file; {} where there is none."""
        return read_json_file(companion_path(self.path, suffix)) if suffix in self._versions() else {}

    def read_text(self, suffix: str) -> str:
        """The beginning of a text file; "" where it cannot be read."""
        if suffix not in self._versions():
            return ""
        try:
            with open_regular_file(companion_path(self.path, suffix)) as file:
                start = file.read(4 * MAX_CHARACTERS)
            return decode_text(start, final=len(start) < 4 * MAX_CHARACTERS)[:MAX_CHARACTERS].replace("\r\n", "\n")
        except OSError:
            return ""

    def find_preview(self) -> Preview | None:
        """Of several pictures the first in the order of `PREVIEWS`."""
        there = self._versions()
        suffix = next((suffix for suffix in PREVIEWS if suffix in there), None)
        if suffix is None:
            return None
        return Preview(suffix, "video" if suffix.endswith(VIDEOS) else "image", there[suffix].replace(":", "-"))

    def _versions(self) -> dict[str, str]:
        return dict(word.split(":", 1) for word in self.stamp.split())


def _words(found: Iterable[tuple[str, Callable[[], os.stat_result]]]) -> str:
    """In an order that the folder's own does not change."""
    words = []
    for suffix, status_of in sorted(found, key=lambda pair: pair[0]):
        try:
            status = status_of()
        except OSError:  # gone meanwhile, or a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):  # what waits for a writer is never opened
            words.append(f"{suffix}:{status.st_size:x}:{status.st_mtime_ns:x}")
    return " ".join(words)
