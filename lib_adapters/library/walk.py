"""One walk over the folders: adapter files and their companions, with sizes and times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lib_adapters.library import companions as beside

SUFFIXES = (".safetensors", ".sft", ".pt", ".ckpt", ".bin", ".pth")


class ScannedFile(NamedTuple):
    """An adapter file as the walk saw it; text instead of paths, because there may be ten thousand."""

    path: str
    root: int  # which of the folders
    subfolder: str  # its path below that folder, with /
    size: int
    mtime_ns: int
    ctime: int  # seconds
    companions: str  # stamp of what lies beside it


def is_adapter(name: str) -> bool:
    """By the name alone."""
    return name.lower().endswith(SUFFIXES) and name.lower() not in SUFFIXES


def walk(folders: Sequence[Path], cancelled: Callable[[], bool]) -> list[ScannedFile]:
    """Every file once, by whichever way to it comes first in the alphabet."""
    found = [pair for root, folder in enumerate(folders) for pair in _below(root, str(folder.absolute()), cancelled)]
    found.sort(key=lambda pair: pair[0].path.replace(os.sep, "\0"))  # folder by folder, as paths are sorted
    seen: set[str] = set()
    return [file for file, real in found if real not in seen and not seen.add(real)]  # type: ignore[func-returns-value]


def list_folders(folder: str) -> Iterator[tuple[str, Mapping[str, os.DirEntry[str]]]]:
    """(real path, entries by name) of a folder and all below it. Links are followed, each real folder once."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        real = os.path.realpath(waiting[-1])
        entries = {} if real in seen else _entries(waiting[-1])
        seen.add(real)
        waiting.pop()
        yield real, {name: entry for name, entry in entries.items() if not _is_folder(entry)}
        waiting += sorted((entry.path for entry in entries.values() if _is_folder(entry)), reverse=True)


def real_path(folder: str, entry: os.DirEntry[str]) -> str:
    """`folder` is the real one; asking the system about each part of each path takes longer than all the rest."""
    return os.path.realpath(entry.path) if entry.is_symlink() else folder + os.sep + entry.name


def scan_file(path: Path) -> ScannedFile:
    """One file, without the rest of its folder and without its place in it. OSError where it is gone."""
    return _file(_status(path), str(path), 0, path.name, beside.read_stamp(path))


def _entries(folder: str) -> dict[str, os.DirEntry[str]]:
    """Nothing where the folder cannot be read: the others still can."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _below(root: int, folder: str, cancelled: Callable[[], bool]) -> Iterator[tuple[ScannedFile, str]]:
    start = len(folder.rstrip(os.sep)) + 1
    for real, listing in takewhile(lambda _: not cancelled(), list_folders(folder)):  # a folder may be far away
        adapters = {name: name.rpartition(".")[0] for name in listing if is_adapter(name)}
        stamps, odd = beside.companion_stamps(listing), beside.case_mismatched(listing, adapters.values())
        for name, stem in adapters.items():
            entry = listing[name]
            if (status := _status_now(entry)) is None:
                continue
            stamp = beside.read_stamp(Path(entry.path)) if stem in odd else stamps.get(stem, "")
            below = entry.path[start:].replace(os.sep, "/")
            yield _file(status, entry.path, root, below, stamp), real_path(real, entry)


def _status(entry: os.DirEntry[str] | Path) -> os.stat_result:
    """A link to nothing is listed too: its card says what is wrong."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _status_now(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None where it went since the folder was read."""
    try:
        return _status(entry)
    except OSError:
        return None


def _file(status: os.stat_result, path: str, root: int, below: str, stamp: str) -> ScannedFile:
    return ScannedFile(path, root, below, status.st_size, status.st_mtime_ns, int(status.st_ctime), stamp)
