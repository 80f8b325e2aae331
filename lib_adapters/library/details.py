"""Details of one file for the dialog, read on demand and not stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding, open_aesthetic
from lib_adapters.conditioning.hypernetwork_file import Hypernetwork, open_hypernetwork
from lib_adapters.errors import AestheticFile, HypernetworkFile
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.library import cards, sidecar_json, trigger_words
from lib_adapters.library.companions import Companions

MAX_TAGS = 200
MAX_SKIPPED = 50
MAX_EMBEDDINGS = 200
MAX_VALUE = 20_000
MAX_KEY = 1000
ROOM, LINE = 1_000_000, 200  # letters of metadata in all; what a line takes beside its own


def details(path: Path, card: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """The card's fields, and what is too long for a card. Fit to be sent: no NaN, no half letters."""
    adapter, error = cards.try_read(path, _opened)
    metadata = adapter.metadata if isinstance(adapter, Adapter) else cards.metadata_of(path)
    found = {**card, "path": str(path), "hashes": dict(hashes), **_of_texts(path, metadata)}
    found.pop("error", None)  # it may have been put right since
    found |= _of(adapter) if adapter else {"error": error}
    sendable = json_safe(found)
    assert isinstance(sendable, dict)
    return sendable


def _opened(path: Path) -> Adapter | Hypernetwork | AestheticEmbedding:
    try:
        return open_adapter(path)
    except HypernetworkFile:
        return open_hypernetwork(path)
    except AestheticFile:
        return open_aesthetic(path)


def _of(found: Adapter | Hypernetwork | AestheticEmbedding) -> dict[str, Any]:
    if isinstance(found, Adapter):
        return _of_adapter(found)
    if isinstance(found, AestheticEmbedding):
        vectors = {f"vectors of {found.width} numbers": len(found.vectors)}
        return {"family_name": FAMILY_NAMES.get(found.family, found.family), "layers": vectors}
    fields = shorten_metadata({key: str(value) for key, value in found.fields.items() if value not in (None, "")})
    nets = {f"Hypernetwork {found.structure}": len(found.nets)}
    return {"family_name": FAMILY_NAMES.get(found.family, found.family), "layers": nets, "metadata": fields}


def _of_adapter(adapter: Adapter) -> dict[str, Any]:
    return {
        "family_name": FAMILY_NAMES.get(adapter.family, adapter.family),
        "unusable": [list(pair) for pair in adapter.skipped[:MAX_SKIPPED]],
        "engine_notes": list(adapter.notes),
        "embeddings": list(adapter.bundled_embeddings)[:MAX_EMBEDDINGS],
        "layers": dict(adapter.algorithms),
    }


def _of_texts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    near = Companions.from_path(path)
    sidecar = sidecar_json.read_sidecar(near)
    training = trigger_words.training_tags(metadata)[:MAX_TAGS]
    named = trigger_words.trigger_words(near, sidecar, metadata)
    if training:
        named["training"] = [tag for tag, _ in training]
    return {
        "description": cards.description(near, sidecar, metadata),
        "notes": sidecar.get("notes", ""),
        "sidecar": sidecar,
        "sources": [{"source": source, "words": found} for source, found in named.items()],
        "training": [list(pair) for pair in training],
        "metadata": shorten_metadata(metadata),
    }


def shorten_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What somebody can read: a header may have a hundred million letters, or a million keys."""
    found: dict[str, str] = {}
    room = ROOM
    for key, value in metadata.items():
        if room < 0:
            break
        if key not in cards.COVERS:
            found[key[:MAX_KEY]] = value[:MAX_VALUE]
            room -= LINE + min(len(key), MAX_KEY) + min(len(value), MAX_VALUE)
    return found


def json_safe(value: object) -> object:
    """What JSON that others read cannot hold is left out or replaced."""
    if isinstance(value, str):
        return cards.valid_utf8(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {cards.valid_utf8(str(key)): json_safe(item) for key, item in value.items()}
    return [json_safe(item) for item in value] if isinstance(value, (list, tuple)) else value
