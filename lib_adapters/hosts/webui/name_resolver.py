"""Resolution of names in tags to files in the web UI's folders.

A name is a file's stem or the end of its path below its folder (`style/ink`), with or without the extension; then the
name that the trainer gave it (`ss_output_name`). It is looked up among the files that are there, never joined to a
path. Of several files with the same name, the one that the built-in Lora uses is taken (builtin_order.py), but never
one that cannot be read.
"""

from __future__ import annotations

import difflib
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lib_adapters.errors import AdapterError
from lib_adapters.files.container import SAFETENSORS_SUFFIXES, open_tensor_file
from lib_adapters.filesystem import casefold_name
from lib_adapters.library import FileInfo
from lib_adapters.library.file_names import (
    Folders,
    NameIndex,
    escape_name,
    matches_name,
    names_of,
    read_index,
    spellings,
)
from lib_adapters.prompt.tags import quote_name

FileStamp = tuple[int, int]
Opened = TypeVar("Opened")
RESCAN_INTERVAL = 1.0  # seconds: one picture asks several times, and the folders may be slow
MAX_OPEN_FILES = 64  # headers kept; a prompt rarely names more


class FileVanished(AdapterError):
    """A file that was there when the folders were read."""


@dataclass(frozen=True)
class Resolved(Generic[Opened]):
    value: Opened
    notice: str | None  # what the user should know about how it was found


class NameResolver(Generic[Opened]):
    """A name that is not there makes the folders be read again, once."""

    def __init__(
        self,
        folders: Callable[[], Folders],
        cached_info: Callable[[Path], FileInfo | None],
        opener: Callable[[Path], Opened],
        type_label: str = "adapter",
        preferred_folders: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        """`known` may have read a file before; None where it has not. `what` such a file is called in sentences.

        `first`: folders whose files are preferred to those in `folders` if several have the same name.
        """
        self._folders, self._cached_info, self._opener, self._type_label = folders, cached_info, opener, type_label
        self._preferred_folders = preferred_folders
        self._index: NameIndex | None = None
        self._read_at = 0.0
        self._lock = threading.RLock()  # pasting and the routes run beside a job
        self._open_files: dict[Path, tuple[FileStamp, Opened]] = {}  # the last used at the end
        self._file_info: dict[Path, tuple[FileStamp, FileInfo]] = {}

    def rescan(self) -> None:
        self._index = None

    def files(self) -> list[Path]:
        return list(self._current_index().files)

    def resolve(self, kind: str, name: str) -> Resolved[Opened]:
        """AdapterError names the choices where a name is not enough."""
        found = self._resolve_retrying(kind, name)
        if found is None and time.monotonic() - self._read_at > RESCAN_INTERVAL:
            self.rescan()
            found = self._resolve_retrying(kind, name)
        if found is None:
            near = difflib.get_close_matches(name, list(self._current_index().exact), n=3, cutoff=0.75)
            instead = f"did you mean {' or '.join(map(repr, near))}?" if near else self._suggestion(kind, name)
            raise AdapterError(f"no {self._type_label} is called {name!r}; {instead}")
        return found

    def _suggestion(self, kind: str, name: str) -> str:
        if name.startswith('"'):
            return "the web UI ends a tag at the first '>', even inside quotes: write %3E instead of '>', as cards do."
        folder = next(iter(self._folders()[kind]), None)
        return f"put the file into {'/'.join(folder.parts[-2:])}." if folder else "no folder is looked into."

    def has(self, kind: str, name: str) -> bool:
        """True if a file has this name, even if it is broken or one of several."""
        return bool(self.candidates(kind, name))

    def candidates(self, kind: str, name: str) -> list[Path]:
        """Return the files to which `name` may refer, in order of preference."""
        index = self._current_index()  # read once, because a Refresh may replace it in between
        return self._by_preference(kind, self._matches(name, index)[0], index)

    def is_readable(self, path: Path) -> bool:
        """True if the file can be opened."""
        try:
            self.open(path)
        except AdapterError:
            return False
        return True

    def shortest_name(self, path: Path) -> str:
        """The shortest name that means this file and no other."""
        return _shortest(path, self._current_index())

    def open(self, path: Path) -> Opened:
        """Reads the header when the file is new or has changed."""
        with self._lock:
            return self._open(path)

    def _open(self, path: Path) -> Opened:
        stamp = _stamp(path)
        if stamp is None:
            raise FileVanished(f"{path.name} cannot be read any more.")
        known = self._open_files.pop(path, None)
        if known is None or known[0] != stamp:
            known = (stamp, self._opener(path))
        self._open_files[path] = known
        while len(self._open_files) > MAX_OPEN_FILES:
            del self._open_files[next(iter(self._open_files))]
        return known[1]

    def _resolve_retrying(self, kind: str, name: str) -> Resolved[Opened] | None:
        try:
            return self._resolve(kind, name)
        except FileVanished:
            self.rescan()
            return self._resolve(kind, name)

    def _resolve(self, kind: str, name: str) -> Resolved[Opened] | None:
        index = self._current_index()
        meant, how = self._matches(name, index)
        paths = self._by_preference(kind, meant, index)
        if how == "alias" and len(paths) > 1:
            paths = [path for path in paths if self.is_readable(path)] or paths[:1]
            if len(paths) > 1:  # different adapters with the same training name; the built-in uses none of them
                raise AdapterError(f"{self._ambiguous(paths, name)}; write which one: {_choices(kind, paths, index)}.")
        if not paths:
            return None
        opened, broken = self._first_readable(paths)
        taken, notices = paths[len(broken)], [f"{name!r} was taken for {paths[len(broken)].stem!r}."]
        notices = notices if how == "alike" else []
        if len(paths) > 1:
            others = _choices(kind, [path for path in paths if path != taken], index)
            mine = _choices(kind, [taken], index)
            notices.append(f"{self._ambiguous(paths, name)}: using {mine}. To use another one, write {others}.")
        notices += [f"Skipped {path.parent.name}/{path.name}: it {why}." for path, why in broken]
        return Resolved(opened, " ".join(notices) or None)

    def _matches(self, name: str, index: NameIndex) -> tuple[Sequence[Path], str]:
        """Return the files and how they match: by "name", by a similar name ("alike") or by trainer name ("alias")."""
        spelled = spellings(name)
        for wanted in spelled:
            if exact := index.exact.get(wanted):
                return exact, "name"
        for wanted in spelled:
            if alike := index.case_insensitive.get(casefold_name(wanted)):
                same = [path for path in alike if matches_name(wanted, names_of(path, index.files[path]))]
                return (same, "name") if same else (alike, "alike")
        return [path for path in index.files if escape_name(self.file_info(path).alias) in spelled], "alias"

    def _by_preference(self, kind: str, paths: Sequence[Path], index: NameIndex) -> list[Path]:
        return in_builtin_order(
            {path: index.files[path] for path in paths}, [*self._preferred_folders(), *self._folders()[kind]]
        )

    def _first_readable(self, paths: Sequence[Path]) -> tuple[Opened, list[tuple[Path, str]]]:
        """Open the first readable file; also return the unreadable files before it with their errors."""
        broken: list[tuple[Path, str]] = []
        for path in paths:
            try:
                return self.open(path), broken
            except FileVanished:
                raise
            except AdapterError as error:
                broken.append((path, str(error).removeprefix(f"{path.name}: ").rstrip(".")))
        return self.open(paths[0]), []  # raises the error of the first file

    def _ambiguous(self, paths: Sequence[Path], name: str) -> str:
        return f"{len(paths)} {self._type_label}s are named {name!r}"

    def file_info(self, path: Path) -> FileInfo:
        """What other files are told apart by; of thousands of files only this is kept."""
        stamp = _stamp(path)
        if stamp is None:
            return FileInfo("", "")
        if (known := self._file_info.get(path)) is None or known[0] != stamp:
            known = self._file_info[path] = (stamp, self._cached_info(path) or _read_about(path))
        return known[1]

    def _current_index(self) -> NameIndex:
        """Held by whoever asks: a Refresh forgets it at any moment."""
        index = self._index
        if index is None:
            self._index = index = read_index(self._folders())
            self._read_at = time.monotonic()
        return index


def _read_about(path: Path) -> FileInfo:
    metadata = read_metadata(path)
    return FileInfo(metadata.get("ss_output_name", ""), metadata.get("sshs_model_hash", ""))


def read_metadata(path: Path) -> Mapping[str, str]:
    """Nothing for a file that cannot be read, and for a pickle, which has none."""
    try:
        return open_tensor_file(path).metadata if path.suffix.lower() in SAFETENSORS_SUFFIXES else {}
    except AdapterError:
        return {}


def _stamp(path: Path) -> FileStamp | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _choices(kind: str, paths: Sequence[Path], index: NameIndex) -> str:
    return ", ".join(f"<{kind}:{quote_name(_shortest(path, index))}:1>" for path in paths[:5])


def _shortest(path: Path, index: NameIndex) -> str:
    names = names_of(path, index.files.get(path, path.parent))
    return next((name for name in names if list(index.exact.get(name, ())) == [path]), path.name)


# Chooses between files of the same name as the built-in Lora does, so that old prompts give the same image.
#
# It walks its two folders (`--lora-dir`, then `--lyco-dir-backcompat`) in natural order and keeps the last file of a
# name (extensions-builtin/Lora/networks.py, process_network_files; modules/util.py, walk_files).


_DIGITS = re.compile("([0-9]+)")
_ITS_SUFFIXES = (".safetensors", ".pt", ".ckpt")


def in_builtin_order(files: Mapping[Path, Path], order: Sequence[Path]) -> list[Path]:
    """Return the files (file -> its adapter folder) in order of preference.

    `order`: the folders in order of preference. Files with a suffix that the built-in does not load come last.
    """

    def place(path: Path) -> tuple[bool, int]:
        folder = files[path]
        return path.suffix.lower() not in _ITS_SUFFIXES, order.index(folder) if folder in order else len(order)

    return sorted(sorted(files, key=_natural, reverse=True), key=place)


def _natural(path: Path) -> tuple[list[int | str], list[int | str]]:
    """Return the sort key: the folder's path, then the name; numbers by value, ignoring case."""
    return _key(str(path.parent)), _key(path.name)


def _key(text: str) -> list[int | str]:
    return [int(part) if at % 2 else part.lower() for at, part in enumerate(_DIGITS.split(text))]
