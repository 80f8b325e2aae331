"""`<name>.json` beside a file, in the web UI's format. Only the web UI's own keys are changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import atomic_write, open_regular_file
from lib_adapters.library.companions import MAX_CHARACTERS, SIDECAR, Companions, companion_path

WEIGHT_KEY = "preferred weight"
TEXT_KEYS = ("description", "sd version", "activation text", "negative text", "notes")
USER_KEYS = (*TEXT_KEYS, WEIGHT_KEY)
MAX_BYTES = 4_000_000  # bytes
MAX_DEPTH = 20  # tables and lists within each other


def read_sidecar(near: Companions) -> dict[str, Any]:
    """The web UI's keys of a file's sidecar as far as they make sense; {} where there is none."""
    stored = near.read_json(SIDECAR)
    found: dict[str, Any] = {key: stored[key] for key in TEXT_KEYS if isinstance(stored.get(key), str)}
    if (weight := weight_of(stored.get(WEIGHT_KEY))) is not None:
        found[WEIGHT_KEY] = weight
    return found


def weight_of(value: object) -> float | None:
    """JSON knows NaN, integers of any length, and people who write numbers as texts."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def save_sidecar(path: Path, changes: Mapping[str, Any]) -> None:
    """Read, modify, write: other keys, their order, and what is no object stay as they are."""
    checked = {key: _checked(key, value) for key, value in changes.items()}
    sidecar = companion_path(path, SIDECAR)
    stored = _stored(sidecar)
    atomic_write(sidecar, _bytes({**stored, **checked}))


def _checked(key: str, value: object) -> str | float:
    if key == WEIGHT_KEY and (weight := weight_of(value)) is not None:
        return int(weight) if weight == int(weight) else weight
    if key in TEXT_KEYS and isinstance(value, str) and len(value) <= MAX_CHARACTERS:
        return value
    wanted = "a number" if key == WEIGHT_KEY else f"a text of at most {MAX_CHARACTERS} letters"
    raise AdapterError(
        f"{key!r} has to be {wanted}." if key in USER_KEYS else f"{key!r} is nothing that can be saved here."
    )


def _stored(sidecar: Path) -> dict[str, Any]:
    """AdapterError instead of {} for what writing would destroy."""
    try:
        if not sidecar.exists():
            return {}
        if sidecar.stat().st_size > MAX_BYTES:
            raise AdapterError(f"{sidecar.name} is too large to be a sidecar of the web UI; it is left as it is.")
        with open_regular_file(sidecar) as file:
            found = json.loads(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise AdapterError(f"{sidecar.name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{sidecar.name} is not valid JSON; repair or remove it, it is left as it is.") from error
    if not isinstance(found, dict):
        raise AdapterError(f"{sidecar.name} is not a JSON object, so not the web UI's; it is left as it is.")
    if _is_deeper(found, MAX_DEPTH):
        raise AdapterError(f"{sidecar.name} is nested too deeply to be the web UI's; it is left as it is.")
    return found


def _is_deeper(value: object, levels: int) -> bool:
    """Each level is written with an indent of its own: four megabytes could become gigabytes."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deeper(item, levels - 1) for item in inner if isinstance(item, (dict, list)))


def _bytes(table: dict[str, Any]) -> bytes:
    """As the web UI writes it; letters that UTF-8 has no bytes for (half an emoji) as escapes."""
    try:
        return json.dumps(table, indent=4, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(table, indent=4).encode("utf-8")
