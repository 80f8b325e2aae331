"""Files in the host's folders, found by the names that tags use; adapters, or whatever else `opener` opens.

A name is a file's stem or the end of its path below its folder (`style/ink`), with or without the extension; then the
name that the trainer gave it (`ss_output_name`). It is looked up among the files that are there, never joined to a
path. Of several files with the same name, the one that the built-in Lora uses is taken (builtin_order.py), but never
one that cannot be read.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lib_adapters.catalogue import About
from lib_adapters.catalogue.names import Folders, Index, carried, is_named, names_of, read_index, spellings
from lib_adapters.errors import AdapterError
from lib_adapters.files.platforms import folded
from lib_adapters.files.source import SAFETENSORS_NAMES, open_source
from lib_adapters.hosts.webui.builtin_order import in_builtin_order
from lib_adapters.prompt.tags import quoted

Stamp = tuple[int, int]
Opened = TypeVar("Opened")
FRESH = 1.0  # seconds: one picture asks several times, and the folders may be slow
MOST_OPEN = 64  # headers kept; a prompt rarely names more


class Vanished(AdapterError):
    """A file that was there when the folders were read."""


@dataclass(frozen=True)
class Found(Generic[Opened]):
    opened: Opened
    notice: str | None  # what the user should know about how it was found


class Names(Generic[Opened]):
    """A name that is not there makes the folders be read again, once."""

    def __init__(
        self,
        folders: Callable[[], Folders],
        known: Callable[[Path], About | None],
        opener: Callable[[Path], Opened],
        what: str = "adapter",
        first: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        """`known` may have read a file before; None where it has not. `what` such a file is called in sentences.

        `first`: folders whose files are preferred to those in `folders` if several have the same name.
        """
        self._folders, self._known, self._opener, self._what = folders, known, opener, what
        self._first = first
        self._index: Index | None = None
        self._read_at = 0.0
        self._lock = threading.RLock()  # pasting and the routes run beside a job
        self._opened: dict[Path, tuple[Stamp, Opened]] = {}  # the last used at the end
        self._about: dict[Path, tuple[Stamp, About]] = {}

    def rescan(self) -> None:
        self._index = None

    def files(self) -> list[Path]:
        return list(self._read().files)

    def find(self, kind: str, name: str) -> Found[Opened]:
        """AdapterError names the choices where a name is not enough."""
        found = self._there(kind, name)
        if found is None and time.monotonic() - self._read_at > FRESH:
            self.rescan()
            found = self._there(kind, name)
        if found is None:
            near = difflib.get_close_matches(name, list(self._read().exact), n=3, cutoff=0.75)
            instead = f"did you mean {' or '.join(map(repr, near))}?" if near else self._advice(kind, name)
            raise AdapterError(f"no {self._what} is called {name!r}; {instead}")
        return found

    def _advice(self, kind: str, name: str) -> str:
        if name.startswith('"'):
            return "the web UI ends a tag at the first '>', even inside quotes: write %3E instead of '>', as cards do."
        folder = next(iter(self._folders()[kind]), None)
        return f"put the file into {'/'.join(folder.parts[-2:])}." if folder else "no folder is looked into."

    def has(self, kind: str, name: str) -> bool:
        """True if a file has this name, even if it is broken or one of several."""
        return bool(self.called(kind, name))

    def called(self, kind: str, name: str) -> list[Path]:
        """Return the files to which `name` may refer, in order of preference."""
        index = self._read()  # read once, because a Refresh may replace it in between
        return self._ranked(kind, self._meant(name, index)[0], index)

    def is_sound(self, path: Path) -> bool:
        """True if the file can be opened."""
        try:
            self.open(path)
        except AdapterError:
            return False
        return True

    def shortest(self, path: Path) -> str:
        """The shortest name that means this file and no other."""
        return _shortest(path, self._read())

    def open(self, path: Path) -> Opened:
        """Reads the header when the file is new or has changed."""
        with self._lock:
            return self._open(path)

    def _open(self, path: Path) -> Opened:
        stamp = _stamp(path)
        if stamp is None:
            raise Vanished(f"{path.name} cannot be read any more.")
        known = self._opened.pop(path, None)
        if known is None or known[0] != stamp:
            known = (stamp, self._opener(path))
        self._opened[path] = known
        while len(self._opened) > MOST_OPEN:
            del self._opened[next(iter(self._opened))]
        return known[1]

    def _there(self, kind: str, name: str) -> Found[Opened] | None:
        try:
            return self._found(kind, name)
        except Vanished:
            self.rescan()
            return self._found(kind, name)

    def _found(self, kind: str, name: str) -> Found[Opened] | None:
        index = self._read()
        meant, how = self._meant(name, index)
        paths = self._ranked(kind, meant, index)
        if how == "alias" and len(paths) > 1:
            paths = [path for path in paths if self.is_sound(path)] or paths[:1]
            if len(paths) > 1:  # different adapters with the same training name; the built-in uses none of them
                raise AdapterError(f"{self._several(paths, name)}; write which one: {_choices(kind, paths, index)}.")
        if not paths:
            return None
        opened, broken = self._first_sound(paths)
        taken, notices = paths[len(broken)], [f"{name!r} was taken for {paths[len(broken)].stem!r}."]
        notices = notices if how == "alike" else []
        if len(paths) > 1:
            others = _choices(kind, [path for path in paths if path != taken], index)
            mine = _choices(kind, [taken], index)
            notices.append(f"{self._several(paths, name)}: using {mine}. To use another one, write {others}.")
        notices += [f"Skipped {path.parent.name}/{path.name}: it {why}." for path, why in broken]
        return Found(opened, " ".join(notices) or None)

    def _meant(self, name: str, index: Index) -> tuple[Sequence[Path], str]:
        """Return the files and how they match: by "name", by a similar name ("alike") or by trainer name ("alias")."""
        spelled = spellings(name)
        for wanted in spelled:
            if exact := index.exact.get(wanted):
                return exact, "name"
        for wanted in spelled:
            if alike := index.alike.get(folded(wanted)):
                same = [path for path in alike if is_named(wanted, names_of(path, index.files[path]))]
                return (same, "name") if same else (alike, "alike")
        return [path for path in index.files if carried(self.about(path).alias) in spelled], "alias"

    def _ranked(self, kind: str, paths: Sequence[Path], index: Index) -> list[Path]:
        return in_builtin_order({path: index.files[path] for path in paths}, [*self._first(), *self._folders()[kind]])

    def _first_sound(self, paths: Sequence[Path]) -> tuple[Opened, list[tuple[Path, str]]]:
        """Open the first readable file; also return the unreadable files before it with their errors."""
        broken: list[tuple[Path, str]] = []
        for path in paths:
            try:
                return self.open(path), broken
            except Vanished:
                raise
            except AdapterError as error:
                broken.append((path, str(error).removeprefix(f"{path.name}: ").rstrip(".")))
        return self.open(paths[0]), []  # raises the error of the first file

    def _several(self, paths: Sequence[Path], name: str) -> str:
        return f"{len(paths)} {self._what}s are named {name!r}"

    def about(self, path: Path) -> About:
        """What other files are told apart by; of thousands of files only this is kept."""
        stamp = _stamp(path)
        if stamp is None:
            return About("", "")
        if (known := self._about.get(path)) is None or known[0] != stamp:
            known = self._about[path] = (stamp, self._known(path) or _read_about(path))
        return known[1]

    def _read(self) -> Index:
        """Held by whoever asks: a Refresh forgets it at any moment."""
        index = self._index
        if index is None:
            self._index = index = read_index(self._folders())
            self._read_at = time.monotonic()
        return index


def _read_about(path: Path) -> About:
    metadata = read_metadata(path)
    return About(metadata.get("ss_output_name", ""), metadata.get("sshs_model_hash", ""))


def read_metadata(path: Path) -> Mapping[str, str]:
    """Nothing for a file that cannot be read, and for a pickle, which has none."""
    try:
        return open_source(path).metadata if path.suffix.lower() in SAFETENSORS_NAMES else {}
    except AdapterError:
        return {}


def _stamp(path: Path) -> Stamp | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _choices(kind: str, paths: Sequence[Path], index: Index) -> str:
    return ", ".join(f"<{kind}:{quoted(_shortest(path, index))}:1>" for path in paths[:5])


def _shortest(path: Path, index: Index) -> str:
    names = names_of(path, index.files.get(path, path.parent))
    return next((name for name in names if list(index.exact.get(name, ())) == [path]), path.name)
