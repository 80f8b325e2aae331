"""The card of a file: everything that the grid shows, from one read of the header and of its companions."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lib_adapters.errors import AdapterError
from lib_adapters.files.container import open_tensor_file
from lib_adapters.library import sidecar_json, trigger_words
from lib_adapters.library.companions import DESCRIPTIONS, Companions
from lib_adapters.library.header_cache import FileSummary, HeaderCache
from lib_adapters.library.walk import ScannedFile

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

MAX_TAGS = 15
MAX_TAG = 100
MAX_TITLE = 200
MAX_TEXT = 200
MAX_NEGATIVE = 2000
MAX_BASE = 50
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_quoted = _ENCODER.encode
COVERS = ("ssmd_cover_images", "modelspec.thumbnail")


@dataclass(frozen=True)
class CardRecord:
    """What the index keeps of a file."""

    card: str  # the inside of a JSON object
    alias: str = ""  # the trainer's own name for it
    hash: str = ""  # the trainer's own


def build_card(file: ScannedFile, layouts: HeaderCache) -> CardRecord:
    """Never raises: a file that cannot be used has a card that says why."""
    path = Path(file.path)
    content, error = try_read(path, layouts.summarize)
    metadata = content.metadata if content else metadata_of(path)
    near = Companions(path, file.companions)
    fields = {**_of_file(file, near, metadata), **(_of(content, path) if content else {}), **_of_texts(near, metadata)}
    alias, stored = metadata.get("ss_output_name", ""), metadata.get("sshs_model_hash", "")
    return CardRecord(
        json_fields({**fields, "error": error}), valid_utf8(alias[:MAX_TITLE]), valid_utf8(stored[:MAX_TITLE])
    )


def json_head(file: ScannedFile, name: str, tag: str) -> str:
    """What depends on the other files and folders, kept apart so that no header is read when those change.

    `tag`: the name as tags carry it.
    """
    folder = file.subfolder.rpartition("/")[0]
    place = f',"dir":{_quoted(folder)}' if folder else ""
    spelled = f',"tag":{_quoted(tag)}' if tag != name else ""
    return valid_utf8(f'"name":{_quoted(name)}{spelled},"file":{_quoted(file.subfolder)}{place},"root":{file.root}')


def json_fields(fields: Mapping[str, Any]) -> str:
    """Compact JSON without its braces and without what is empty. NaN would make a page refuse the whole list."""
    kept = {key: value for key, value in fields.items() if value not in (None, "", [], ())}
    return valid_utf8(_ENCODER.encode(kept))[1:-1]


def valid_utf8(text: str) -> str:
    """Names that are no UTF-8 and halves of emojis have no place in JSON that is sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def try_read(path: Path, read: Callable[[Path], Result]) -> tuple[Result | None, str]:
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


def _of_file(file: ScannedFile, near: Companions, metadata: Mapping[str, str]) -> dict[str, Any]:
    times = {"size": file.size, "mtime": file.mtime_ns // 1_000_000_000, "ctime": file.ctime}
    return {**times, "preview": _preview(file, near, metadata)}


def _preview(file: ScannedFile, near: Companions, metadata: Mapping[str, str]) -> dict[str, str] | None:
    if found := near.find_preview():
        return {"kind": found.kind, "v": found.version}
    if any(metadata.get(key) for key in COVERS):
        return {"kind": "cover", "v": f"{file.size:x}-{file.mtime_ns:x}"}
    return None


def _of(content: FileSummary, path: Path) -> dict[str, Any]:
    metadata = content.metadata
    title = metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""
    return {
        "kind": content.kind,
        "family": content.family,
        "algorithms": content.algorithms,
        "rank": content.rank,
        "alpha": content.alpha if content.alpha is not None and math.isfinite(content.alpha) else None,
        "parts": content.parts,
        "title": title[:MAX_TITLE] if title != path.stem else "",
    }


def _of_texts(near: Companions, metadata: Mapping[str, str]) -> dict[str, Any]:
    sidecar = sidecar_json.read_sidecar(near)
    return {
        "words": next(iter(trigger_words.trigger_words(near, sidecar, metadata).values()), []),
        "negative": sidecar.get("negative text", "")[:MAX_NEGATIVE],
        "weight": sidecar.get(sidecar_json.WEIGHT_KEY) or None,  # 0 is how the web UI writes "none"
        "base": sidecar.get("sd version", "").replace("Unknown", "")[:MAX_BASE],
        "text": description(near, sidecar, metadata)[:MAX_TEXT],
        "tags": [tag[:MAX_TAG] for tag, _ in trigger_words.training_tags(metadata)[:MAX_TAGS]],
    }


def description(near: Companions, sidecar: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The sidecar's, else the web UI's older text file, else the trainer's."""
    if text := str(sidecar.get("description", "")):
        return text
    for suffix in DESCRIPTIONS:
        if text := near.read_text(suffix):
            return text
    return metadata.get("modelspec.description") or metadata.get("ssmd_description") or ""
