"""The adapter files of some folders, by every name that may mean them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin", ".pth")
Folders = Mapping[str, Sequence[Path]]  # by kind of tag


@dataclass(frozen=True)
class Index:
    """The files as they were when the folders were read."""

    files: Mapping[Path, Path]  # file -> the folder it was found in
    exact: Mapping[str, Sequence[Path]]
    alike: Mapping[str, Sequence[Path]]


def read_index(folders: Folders) -> Index:
    files: dict[Path, Path] = {}
    for folder in (folder for group in folders.values() for folder in group):
        for path in _adapter_files(folder):
            files.setdefault(path, folder)
    exact: dict[str, list[Path]] = {}
    alike: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for path in sorted(files):
        if (real := path.resolve()) in seen:
            continue  # the same file by a second way
        seen.add(real)
        for name in names_of(path, files[path]):
            exact.setdefault(name, []).append(path)
            if path not in (same := alike.setdefault(folded(name), [])):
                same.append(path)
    return Index(files, exact, alike)


def _adapter_files(folder: Path) -> Iterator[Path]:
    """Links are followed, each folder once."""
    seen: set[str] = set()
    for root, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield from (Path(root, name) for name in sorted(names) if name.lower().endswith(SUFFIXES))


def names_of(path: Path, folder: Path) -> list[str]:
    """All names of a file, the shortest first."""
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else (path.name,)
    ends = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
    return [name for end in ends for name in (end.removesuffix(path.suffix), end)]


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
