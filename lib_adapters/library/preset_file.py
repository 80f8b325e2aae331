"""The user's file of block-weight presets, read again when it changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.files.safetensors_header import is_encodable
from lib_adapters.filesystem import atomic_write
from lib_adapters.prompt.block_presets import (
    BUILT_IN,
    MAX_BYTES,
    SECTION,
    format_presets,
    merge_presets,
    parse_presets,
    preset_error,
)
from lib_adapters.prompt.block_weights import Presets

PRESET_FILE_NAME = "lycoris_presets.txt"
MAX_PRESETS = 1000  # presets of one kind


@dataclass(frozen=True)
class PresetSource:
    """A file of presets that is only read."""

    path: Path
    elements: bool = False  # rules for kinds of layers, without a line that says so


@dataclass(frozen=True)
class PresetListing:
    """All presets, those of the user's file, and a sentence for each line of a file that cannot be read."""

    all_presets: Presets
    own_presets: Presets
    problems: tuple[str, ...]


class PresetFile:
    """Safe to use from several threads. Another program may write the file at any time."""

    def __init__(self, path: Path, sources: Callable[[], Sequence[PresetSource]] = tuple) -> None:
        self.path = path
        self._sources = sources
        self._lock = threading.Lock()
        self._known: tuple[object, PresetListing] | None = None

    def presets(self) -> Presets:
        """Built in, of other files and the user's own; the later ones win."""
        return self.listing().all_presets

    def listing(self) -> PresetListing:
        """Read again only when one of the files has changed."""
        with self._lock:
            sources = self._sources()
            stamp = [(source, _stamp(source.path)) for source in (PresetSource(self.path), *sources)]
            if self._known is None or self._known[0] != stamp:
                self._known = stamp, self._read(sources)
            return self._known[1]

    def save(self, own: Presets) -> None:
        """Exactly these are the user's from now on. AdapterError names the one that cannot be saved."""
        for elements, table in ((False, own.blocks), (True, own.elements)):
            for name, text in table.items():
                _check(name, text, elements)
            if len(table) > MAX_PRESETS:
                raise AdapterError(f"{len(table)} presets are too many; {MAX_PRESETS} can be saved.")
        with self._lock:
            text = _merged(_text(self.path), own)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AdapterError(f"{self.path} cannot be written: {error.strerror or error}.") from error
            atomic_write(self.path, text.encode())
            self._known = None

    def _read(self, sources: Sequence[PresetSource]) -> PresetListing:
        own, problems = _presets(PresetSource(self.path))
        others = [_presets(source) for source in sources]
        problems += [
            f"{source.path.name}, {text}" for source, other in zip(sources, others, strict=True) for text in other[1]
        ]
        return PresetListing(merge_presets(BUILT_IN, *(found for found, _ in others), own), own, tuple(problems))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _presets(source: PresetSource) -> tuple[Presets, list[str]]:
    try:
        text = _text(source.path)
    except AdapterError as error:
        return Presets(), [str(error)]
    found, problems = parse_presets(f"{SECTION}\n{text}" if source.elements else text)
    return found, problems


def _text(path: Path) -> str:
    """What a file says; "" where there is none. AdapterError for what writing would destroy."""
    try:
        if not path.exists():
            return ""
        if path.stat().st_size > MAX_BYTES:
            raise AdapterError(f"{path.name} is too large to be a file of presets; it is left as it is.")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path.name} is not UTF-8; save it as such or remove it, it is left as it is.") from error


def _check(name: str, text: str, elements: bool) -> None:
    """What is written must be read back as the same: a name may look like a comment, a text may have a second line."""
    if not is_encodable(name + text):
        raise AdapterError(f"{name!r} holds half a letter, which no file can.")
    one = Presets({}, {name: text}) if elements else Presets({name: text})
    if problem := preset_error(name, text, elements):
        raise AdapterError(problem)
    back, problems = parse_presets(format_presets(one))
    if problems or [*back.blocks, *back.elements] != [name] or (not elements and back.blocks != one.blocks):
        raise AdapterError(f"{name!r} cannot be saved: its name or its text would be read as something else.")


def _merged(before: str, own: Presets) -> str:
    """The old lines with the new values: comments, and what could not be read, stay where they are."""
    left = {False: dict(own.blocks), True: dict(own.elements)}
    parts: dict[bool, list[str]] = {False: [], True: []}
    elements = False
    for line in before.splitlines():
        entry = line.strip()
        if entry.lower() == SECTION:
            elements = True
        elif (name := _name_in(entry, elements)) is None:
            parts[elements].append(line)
        elif name in left[elements]:
            parts[elements].append(_line(name, left[elements].pop(name), elements))
    for kind, table in left.items():
        end = len(parts[kind])
        while end and not parts[kind][end - 1].strip():
            end -= 1
        parts[kind][end:end] = [_line(name, value, kind) for name, value in table.items()]
    return "\n".join([*parts[False], *([SECTION, *parts[True]] if parts[True] else []), ""])


def _name_in(entry: str, elements: bool) -> str | None:
    """The preset that a line is; None for empty lines, comments and what cannot be read."""
    found, _ = parse_presets(f"{SECTION}\n{entry}" if elements else entry)
    names: Mapping[str, str] = found.elements if elements else found.blocks
    return next(iter(names), None)


def _line(name: str, value: str, elements: bool) -> str:
    return format_presets(Presets({}, {name: value}) if elements else Presets({name: value})).splitlines()[-1]
