"""Names of the adapter files in some folders, with all their spellings in tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from lib_adapters.filesystem import casefold_name, nfc
from lib_adapters.library.walk import is_adapter, list_folders, real_path

Folders = Mapping[str, Sequence[Path]]  # by kind of tag
# The web UI ends a tag at the first ">", even inside quotes, and reads "#" as the start of a comment and "<" as that of
# another tag; a text box changes control characters; and invalid UTF-8 (surrogates) cannot be sent at all. A "%" that
# looks like the escape of one of them is escaped too, so that different names stay different.
_NOT_CARRIED = re.compile("[<>#\x00-\x1f\x7f\ud800-\udfff]|%(?=23|3C|3E|7F|[01][0-9A-F])")


def escape_name(name: str) -> str:
    """Return `name` as it is written in tags, with each character that a prompt cannot contain escaped as %XX.

    The bytes are those of UTF-8; a byte of a file name that is not valid UTF-8 is kept. Other characters are unchanged.
    """
    return _NOT_CARRIED.sub(_percent, name)


def spellings(name: str) -> list[str]:
    """Return the forms of `name` to look up in an index of escaped names: as written, then escaped."""
    plain = name.strip().replace("\\", "/")
    return list(dict.fromkeys([name, plain, escape_name(name), escape_name(plain)]))


def _percent(found: re.Match[str]) -> str:
    sign = found[0]
    how = "surrogateescape" if "\udc80" <= sign <= "\udcff" else "surrogatepass"
    return "".join(f"%{byte:02X}" for byte in sign.encode("utf-8", how))


@dataclass(frozen=True)
class NameIndex:
    """The files as they were when the folders were read."""

    files: Mapping[Path, Path]  # file -> the folder it was found in
    exact: Mapping[str, Sequence[Path]]
    case_insensitive: Mapping[str, Sequence[Path]]


def read_index(folders: Folders) -> NameIndex:
    """Walks all folders; a file that two ways lead to is there once."""
    files: dict[Path, Path] = {}
    reals: dict[Path, str] = {}
    for folder in (folder for group in folders.values() for folder in group):
        for path, real in _adapter_files(folder):
            files.setdefault(path, folder)
            reals[path] = real
    exact: dict[str, list[Path]] = {}
    alike: dict[str, list[Path]] = {}
    seen: set[str] = set()
    for path in sorted(files):
        if reals[path] in seen:
            continue  # the same file by a second way
        seen.add(reals[path])
        for name in names_of(path, files[path]):
            exact.setdefault(name, []).append(path)
            if path not in (same := alike.setdefault(casefold_name(name), [])):
                same.append(path)
    return NameIndex(files, exact, alike)


def _adapter_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, real path)"""
    for real, listing in list_folders(str(folder)):
        yield from ((Path(e.path), real_path(real, e)) for name, e in sorted(listing.items()) if is_adapter(name))


def names_of(path: Path, folder: Path) -> list[str]:
    """Return all escaped names of a file, the shortest first; the longest begins with the folder's own name."""
    parts = (folder.name, *path.relative_to(folder).parts) if path.is_relative_to(folder) else (path.name,)
    return all_names(parts)


def all_names(parts: Sequence[str]) -> list[str]:
    """Return the escaped tails of a path, each without and with the file's suffix, the shortest first."""
    spelled = [escape_name(part) for part in parts]
    return _names(spelled, PurePath(spelled[-1]).suffix)


def shortest_names(files: Sequence[Sequence[str]]) -> list[str]:
    """Return the shortest unambiguous name of each file, given as its folder's name and the parts below that.

    The names are escaped for tags; `plain_name` returns the readable form.
    """
    known: dict[str, str] = {}  # thousands of files have a few folders
    spelled = [
        [*(known.get(part) or known.setdefault(part, escape_name(part)) for part in parts[:-1]), escape_name(parts[-1])]
        for parts in files
    ]
    ends = [_ends(parts) for parts in spelled]
    counts = Counter(name for pair in ends for name in pair)
    named = [all_names(parts) if _clashes(pair, counts) else pair for parts, pair in zip(spelled, ends, strict=True)]
    counts.update(name for names in named for name in names[2:])
    return [next((name for name in names if counts[name] == 1), names[1]) for names in named]


def plain_name(name: str, parts: Sequence[str]) -> str:
    """Return the unescaped tail of the path `parts` to which `name` refers."""
    if name == parts[-1].rpartition(".")[0]:  # nothing is escaped
        return name
    end = "/".join(parts[-1 - name.count("/") :])
    return end if escape_name(end) == name else end.removesuffix(PurePath(end).suffix)


def _clashes(ends: Sequence[str], counts: Mapping[str, int]) -> bool:
    """Only files with such a name can have any longer one in common: it ends with this."""
    return counts[ends[0]] > 1 or counts[ends[1]] > 1


def _ends(parts: Sequence[str]) -> list[str]:
    return [parts[-1].rpartition(".")[0], parts[-1]]


def _names(parts: Sequence[str], suffix: str) -> list[str]:
    ends = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
    return [name for end in ends for name in (end.removesuffix(suffix), end)]


def matches_name(name: str, names: Iterable[str]) -> bool:
    """Also where a system or a keyboard takes its letters apart; that is nobody's mistake."""
    return nfc(name.strip()) in map(nfc, names)
