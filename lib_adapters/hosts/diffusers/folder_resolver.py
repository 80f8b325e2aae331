"""Resolution of names in tags to files in some folders.

A name is a file's stem, or the end of its path (`style/ink`), with or without the extension. It is looked up among the
files that are there and never joined to a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding, open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import Hypernetwork, open_hypernetwork
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.filesystem import casefold_name
from lib_adapters.library.file_names import all_names, matches_name, spellings
from lib_adapters.library.walk import is_adapter, list_folders
from lib_adapters.prompt.tags import quote_name

TYPE_LABELS = {"lyco": "adapter", "hypernet": "hypernetwork", "aesthetic": "aesthetic embedding"}
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class ResolvedAdapter:
    adapter: Adapter
    notice: str | None  # what the user should know about how it was found


class FolderResolver:
    """The files of the given folders as they are when the shelf is made."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.files: tuple[Path, ...] = tuple(dict.fromkeys(f for folder in folders for f in adapter_files(folder)))
        self._adapters: dict[Path, Adapter] = {}
        self._hypernetworks: dict[Path, Hypernetwork] = {}
        self._aesthetics: dict[Path, AestheticEmbedding] = {}

    def adapter(self, name: str) -> ResolvedAdapter:
        """Return the exact match, else one that differs only in case or Unicode form. Raise AdapterError if none.

        Of several files with the same name, the first readable one is used, in the order of the folders and paths; the
        notice names the others.
        """
        return ResolvedAdapter(*self._resolve("lyco", name, self._adapters, open_adapter))

    def hypernetwork(self, name: str) -> tuple[Hypernetwork, str | None]:
        """The same for `<hypernet:name>`."""
        return self._resolve("hypernet", name, self._hypernetworks, open_hypernetwork)

    def aesthetic(self, name: str) -> tuple[AestheticEmbedding, str | None]:
        """The same for `<aesthetic:name>`."""
        return self._resolve("aesthetic", name, self._aesthetics, open_aesthetic)

    def _resolve(
        self, kind: str, name: str, opened: dict[Path, Opened], opener: Callable[[Path], Opened]
    ) -> tuple[Opened, str | None]:
        paths, notices = self._matches(kind, name)
        for path in paths:
            try:
                if path not in opened:
                    opened[path] = opener(path)
            except AdapterError as error:
                notices.append(f"Skipped {path}: {error}")
                continue
            return opened[path], " ".join([*self._ambiguity_notice(kind, name, path, paths), *notices]) or None
        return opener(paths[0]), None  # raises the error of the first file

    def _ambiguity_notice(self, kind: str, name: str, path: Path, paths: Sequence[Path]) -> list[str]:
        if len({one.resolve() for one in paths}) == 1:  # several links to one file
            return []
        tags = {one: f"<{kind}:{quote_name(self.shortest_name(one))}:1>" for one in paths}
        mine, others = tags.pop(path), ", ".join(tags.values())
        return [f"{len(paths)} files are named {name!r}: using {mine}. To use another one, write {others}."]

    def _matches(self, kind: str, name: str) -> tuple[list[Path], list[str]]:
        """Return the files to which the name may refer, and notices for the user."""
        spelled = spellings(name)
        for wanted in spelled:
            if exact := [path for path in self.files if wanted in _names(path)]:
                return exact, []
        for wanted in spelled:
            if alike := [
                path for path in self.files if casefold_name(wanted) in {casefold_name(one) for one in _names(path)}
            ]:
                same = [path for path in alike if matches_name(wanted, _names(path))]
                return same or alike, [] if same else [f"{name!r} was taken for {alike[0].stem!r}."]
        raise AdapterError(f"no {TYPE_LABELS[kind]} is called {name!r} in the given folders.")

    def shortest_name(self, path: Path) -> str:
        """The shortest name that means this file and no other."""
        real = path.resolve()
        others = {name for other in self.files if other.resolve() != real for name in _names(other)}
        return next((name for name in _names(path) if name not in others), path.as_posix())


def adapter_files(folder: Path) -> list[Path]:
    """Return every file below `folder` that may be an adapter, in a fixed order; skip unreadable folders.

    Links to files and folders are followed and keep their own names.
    """
    found = (entry.path for _, files in list_folders(str(folder.absolute())) for entry in files.values())
    return sorted(path for path in map(Path, found) if is_adapter(path.name))


def _names(path: Path) -> list[str]:
    """All names of a file, the shortest first."""
    return all_names(path.parts[1:])
