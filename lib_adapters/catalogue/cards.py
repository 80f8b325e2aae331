"""One file -> its card: everything that a grid shows, from one read of the header and of the texts beside it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lib_adapters.catalogue import sidecars, words
from lib_adapters.catalogue.beside import DESCRIPTIONS, Beside
from lib_adapters.catalogue.folders import File
from lib_adapters.catalogue.layouts import Content, Layouts
from lib_adapters.errors import AdapterError
from lib_adapters.files.container import open_tensor_file

Told = TypeVar("Told")

logger = logging.getLogger(__name__)

MOST_TAGS = 15
LONGEST_TAG = 100
LONGEST_TITLE = 200
LONGEST_TEXT = 200
LONGEST_NEGATIVE = 2000
LONGEST_BASE = 50
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_quoted = _ENCODER.encode
COVERS = ("ssmd_cover_images", "modelspec.thumbnail")


@dataclass(frozen=True)
class Described:
    """What the index keeps of a file."""

    card: str  # the inside of a JSON object
    alias: str = ""  # the trainer's own name for it
    hash: str = ""  # the trainer's own


def describe(file: File, layouts: Layouts) -> Described:
    """Never raises: a file that cannot be used has a card that says why."""
    path = Path(file.path)
    content, error = said(path, layouts.content)
    metadata = content.metadata if content else metadata_of(path)
    near = Beside(path, file.beside)
    fields = {**_of_file(file, near, metadata), **(_of(content, path) if content else {}), **_of_texts(near, metadata)}
    alias, stored = metadata.get("ss_output_name", ""), metadata.get("sshs_model_hash", "")
    return Described(inside({**fields, "error": error}), whole(alias[:LONGEST_TITLE]), whole(stored[:LONGEST_TITLE]))


def head(file: File, name: str, tag: str) -> str:
    """What depends on the other files and folders, kept apart so that no header is read when those change.

    `tag`: the name as tags carry it.
    """
    folder = file.below.rpartition("/")[0]
    place = f',"dir":{_quoted(folder)}' if folder else ""
    spelled = f',"tag":{_quoted(tag)}' if tag != name else ""
    return whole(f'"name":{_quoted(name)}{spelled},"file":{_quoted(file.below)}{place},"root":{file.root}')


def inside(fields: Mapping[str, Any]) -> str:
    """Compact JSON without its braces and without what is empty. NaN would make a page refuse the whole list."""
    kept = {key: value for key, value in fields.items() if value not in (None, "", [], ())}
    return whole(_ENCODER.encode(kept))[1:-1]


def whole(text: str) -> str:
    """Names that are no UTF-8 and halves of emojis have no place in JSON that is sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def said(path: Path, read: Callable[[Path], Told]) -> tuple[Told | None, str]:
    """What reading the file tells, or the sentence that its user gets instead."""
    try:
        return read(path), ""
    except AdapterError as error:
        return None, str(error)
    except Exception as error:
        logger.exception("LyCORIS: %s cannot be read", path)
        return None, f"{path.name} cannot be read ({type(error).__name__}: {str(error)[:200]})"


def metadata_of(path: Path) -> Mapping[str, str]:
    """Also of a file that is no adapter: its name is still asked for."""
    try:
        return open_tensor_file(path).metadata
    except Exception:  # noqa: BLE001 - whatever is wrong was said when it was opened
        return {}


def _of_file(file: File, near: Beside, metadata: Mapping[str, str]) -> dict[str, Any]:
    times = {"size": file.size, "mtime": file.mtime_ns // 1_000_000_000, "ctime": file.ctime}
    return {**times, "preview": _preview(file, near, metadata)}


def _preview(file: File, near: Beside, metadata: Mapping[str, str]) -> dict[str, str] | None:
    if found := near.preview():
        return {"kind": found.kind, "v": found.version}
    if any(metadata.get(key) for key in COVERS):
        return {"kind": "cover", "v": f"{file.size:x}-{file.mtime_ns:x}"}
    return None


def _of(content: Content, path: Path) -> dict[str, Any]:
    metadata = content.metadata
    title = metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""
    return {
        "kind": content.kind,
        "family": content.family,
        "algorithms": content.algorithms,
        "rank": content.rank,
        "alpha": content.alpha if content.alpha is not None and math.isfinite(content.alpha) else None,
        "parts": content.parts,
        "title": title[:LONGEST_TITLE] if title != path.stem else "",
    }


def _of_texts(near: Beside, metadata: Mapping[str, str]) -> dict[str, Any]:
    sidecar = sidecars.read(near)
    return {
        "words": next(iter(words.sources(near, sidecar, metadata).values()), []),
        "negative": sidecar.get("negative text", "")[:LONGEST_NEGATIVE],
        "weight": sidecar.get(sidecars.WEIGHT) or None,  # 0 is how the web UI writes "none"
        "base": sidecar.get("sd version", "").replace("Unknown", "")[:LONGEST_BASE],
        "text": description(near, sidecar, metadata)[:LONGEST_TEXT],
        "tags": [tag[:LONGEST_TAG] for tag, _ in words.training(metadata)[:MOST_TAGS]],
    }


def description(near: Beside, sidecar: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The sidecar's, else the web UI's older text file, else the trainer's."""
    if text := str(sidecar.get("description", "")):
        return text
    for suffix in DESCRIPTIONS:
        if text := near.text(suffix):
            return text
    return metadata.get("modelspec.description") or metadata.get("ssmd_description") or ""
