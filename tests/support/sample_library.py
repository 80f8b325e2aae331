"""Small adapter files on disk, and a catalogue over them. Thousands at once: `benchmarks.synthetic_library.fill`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.synthetic_library import layers, write
from lib_adapters.library import AdapterLibrary


def adapter(path: Path, kind: str = "lora", modules: int = 2, **metadata: object) -> Path:
    """Metadata that is no text is written as JSON; `modelspec__title` stands for `modelspec.title`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {key.replace("__", "."): v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
    write(path, layers(kind, modules), texts)
    return path


def sidecar(path: Path, content: object, suffix: str = ".json") -> Path:
    beside = path.with_name(path.stem + suffix)
    beside.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return beside


def picture(kind: str = "PNG", size: tuple[int, int] = (600, 300), mode: str = "RGB", **options: object) -> bytes:
    made = io.BytesIO()
    Image.new(mode, size, 200 if mode == "P" else "red").save(made, kind, **options)
    return made.getvalue()


def data_url(image: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"


@contextmanager
def opened(*folders: Path, place: Path) -> Iterator[AdapterLibrary]:
    catalogue = AdapterLibrary(lambda: folders, place)
    try:
        yield catalogue
    finally:
        catalogue.close()


def scan(catalogue: AdapterLibrary) -> dict[str, dict[str, Any]]:
    """All cards after one round of indexing, by name."""
    catalogue.start()
    assert catalogue.wait(60)
    return cards(catalogue)


def cards(catalogue: AdapterLibrary, since: int = 0) -> dict[str, dict[str, Any]]:
    found = [json.loads(text, parse_constant=_refuse) for text in catalogue.changes_since(since).cards]
    return {card["name"]: card for card in found}


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
