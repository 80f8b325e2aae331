"""Files of adapters, hypernetworks and aesthetic embeddings in some folders, found by the names that tags use.

A name is a file's stem, or the end of its path (`style/ink`), with or without the extension. It is looked up among the
files that are there and never joined to a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_adapters.catalogue.folders import is_adapter, listings
from lib_adapters.conditioning.aesthetic import Aesthetic, open_aesthetic
from lib_adapters.conditioning.hypernetwork import Hypernetwork, open_hypernetwork
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.files.platforms import folded, same_form
from lib_adapters.prompt.tags import quoted

KINDS = {"lyco": "adapter", "hypernet": "hypernetwork", "aesthetic": "aesthetic embedding"}


@dataclass(frozen=True)
class Found:
    adapter: Adapter
    notice: str | None  # what the user should know about how it was found


class Shelf:
    """The files of the given folders as they are when the shelf is made."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.files: tuple[Path, ...] = tuple(dict.fromkeys(f for folder in folders for f in adapter_files(folder)))
        self._opened: dict[Path, Adapter] = {}
        self._hypernetworks: dict[Path, Hypernetwork] = {}
        self._aesthetics: dict[Path, Aesthetic] = {}

    def find(self, name: str) -> Found:
        """Exact first, then the same letters in another case or Unicode form; AdapterError names the choices."""
        path, notice = self._lookup("lyco", name)
        return Found(self._open(path), notice)

    def hypernetwork(self, name: str) -> tuple[Hypernetwork, str | None]:
        """The same for `<hypernet:name>`."""
        path, notice = self._lookup("hypernet", name)
        if path not in self._hypernetworks:
            self._hypernetworks[path] = open_hypernetwork(path)
        return self._hypernetworks[path], notice

    def aesthetic(self, name: str) -> tuple[Aesthetic, str | None]:
        """The same for `<aesthetic:name>`."""
        path, notice = self._lookup("aesthetic", name)
        if path not in self._aesthetics:
            self._aesthetics[path] = open_aesthetic(path)
        return self._aesthetics[path], notice

    def _lookup(self, kind: str, name: str) -> tuple[Path, str | None]:
        wanted = name.replace("\\", "/")
        exact = [path for path in self.files if {name, wanted} & set(_names(path))]
        if exact:
            return self._only(kind, exact, name), None
        alike = [path for path in self.files if folded(wanted) in {folded(one) for one in _names(path)}]
        if not alike:
            raise AdapterError(f"no {KINDS[kind]} is called {name!r} in the folders that were looked into.")
        same = [path for path in alike if same_form(wanted.strip()) in map(same_form, _names(path))]
        path = self._only(kind, same or alike, name)
        return path, None if same else f"{name!r} was taken for {path.stem!r}."

    def _only(self, kind: str, paths: Sequence[Path], name: str) -> Path:
        if len({path.resolve() for path in paths}) == 1:  # one file, to which several links lead
            return paths[0]
        choices = ", ".join(f"<{kind}:{quoted(self.shortest(path))}:1>" for path in paths[:5])
        raise AdapterError(f"{len(paths)} files are called {name!r}; write which one: {choices}.")

    def shortest(self, path: Path) -> str:
        """The shortest name that means this file and no other."""
        real = path.resolve()
        others = {name for other in self.files if other.resolve() != real for name in _names(other)}
        return next((name for name in _names(path) if name not in others), path.as_posix())

    def _open(self, path: Path) -> Adapter:
        if path not in self._opened:
            self._opened[path] = open_adapter(path)
        return self._opened[path]


def adapter_files(folder: Path) -> list[Path]:
    """Every file below `folder` that could be an adapter, in a fixed order; unreadable folders are passed over.

    Links to files and folders are followed and keep their own names.
    """
    found = (entry.path for _, files in listings(str(folder.absolute())) for entry in files.values())
    return sorted(path for path in map(Path, found) if is_adapter(path.name))


def _names(path: Path) -> list[str]:
    """All names of a file, the shortest first."""
    parts = path.parts[1:]
    ends = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
    return [name for end in ends for name in (end.removesuffix(path.suffix), end)]
