"""Short hashes of adapter files as the host writes them: made when first needed, kept in the host's own cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lib_adapters.files.adapter import Adapter
from lib_adapters.files.source import SAFETENSORS_NAMES
from lib_adapters.hosts.webui import host
from lib_adapters.hosts.webui.names import Names

LENGTH = 12
EMPTY = "e3b0c44298fc"  # the hash of no bytes: what a failed run of some tool leaves in many files


class Hashes:
    def __init__(self, names: Names[Any]) -> None:
        self._names = names

    def short(self, adapter: Adapter) -> str:
        """As the built-in: the trainer's own (`sshs_model_hash`), else of the tensor data; "" where hashing is off."""
        known = adapter.metadata.get("sshs_model_hash") or self._host_hash(adapter.path)
        return (known or "")[:LENGTH]

    def find(self, wanted: str) -> Path | None:
        """Return the only readable file with this hash among those whose hash is known without reading the file.

        Files are opened as a check, because a truncated copy still has the trainer's hash in its header.
        """
        if wanted == EMPTY or not wanted:
            return None
        found = [path for path in self._names.files() if wanted in self._known(path) and self._names.is_sound(path)]
        return found[0] if len(found) == 1 else None

    def among(self, wanted: str, paths: Sequence[Path]) -> Path | None:
        """Return the first of these files with this hash; compute unknown hashes, since there are only a few files."""
        if wanted == EMPTY or not wanted:
            return None
        known = [path for path in paths if wanted in self._known(path)]
        return next((path for path in known or paths if known or self._made(path) == wanted), None)

    def _known(self, path: Path) -> Iterable[str]:
        stored = self._names.about(path).hash
        return {text[:LENGTH] for text in (stored, self._cached(path)) if text}

    def _made(self, path: Path) -> str:
        return "" if self._names.about(path).hash else (self._host_hash(path) or "")[:LENGTH]

    def _host_hash(self, path: Path) -> str | None:
        made: str | None = host.module("hashes").sha256(str(path), _title(path), use_addnet_hash=_is_safetensors(path))
        return made

    def _cached(self, path: Path) -> str:
        cached = getattr(host.module("hashes"), "sha256_from_cache", None)
        found = cached(str(path), _title(path), use_addnet_hash=_is_safetensors(path)) if cached else None
        return found or ""


def _title(path: Path) -> str:
    """By path: the host's convention, the bare name, gives one entry to two files of one name."""
    return f"lycoris/{path.as_posix()}"


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() in SAFETENSORS_NAMES
