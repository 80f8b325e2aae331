"""Which of a model's text encoders an aesthetic embedding is for, and the projection into CLIP's common space.

OpenCLIP's encoders have theirs in every checkpoint, CLIP-L's is in none: it comes from a folder on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic import Aesthetic
from lib_adapters.conditioning.aesthetic_text import own_projection, projection_in
from lib_adapters.errors import AdapterError, BrokenModel, FamilyMismatch
from lib_adapters.hosts.webui import settings
from lib_adapters.hosts.webui.model import embedders_of, tower_of

CLIP_L = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Place:
    """One of the host's embedders; held for one picture, never longer."""

    embedder: Any
    projection: Tensor  # [d, w]


class Projections:
    """Those that were read from folders are kept: they are small."""

    def __init__(self) -> None:
        self._read: dict[Path, Tensor] = {}

    def place(self, model: nn.Module, aesthetic: Aesthetic) -> Place:
        """AdapterError where no encoder fits, or where nobody knows its projection."""
        widths, lacking, reason = [], 0, ""
        for embedder in embedders_of(model):
            try:
                projection = self._of(tower_of(embedder))
            except AdapterError as error:
                lacking, reason = lacking + 1, str(error)
                continue
            if projection.shape[0] == aesthetic.width:
                return Place(embedder, projection)
            widths.append(str(projection.shape[0]))
        name = aesthetic.path.name
        if lacking:
            raise BrokenModel(f"{name}: {reason}")
        if not widths:
            raise FamilyMismatch(f"{name}: this model has no CLIP text encoder, so aesthetic gradients cannot be used.")
        raise FamilyMismatch(
            f"{name} is {aesthetic.width} wide, but what this model's texts are compared in is {' or '.join(widths)} "
            "wide: use an embedding made with this model's CLIP."
        )

    def _of(self, tower: nn.Module) -> Tensor:
        own = own_projection(tower)
        return self._local(tower) if own is None else own

    def _local(self, tower: nn.Module) -> Tensor:
        width = int(getattr(getattr(tower, "config", None), "hidden_size", 0))
        named = settings.clip_folder()
        if named is not None:
            found = self._in(named)
            if found.shape[1] == width:
                return found
            raise BrokenModel(f"the CLIP model in {named} belongs to another text encoder than this model's.")
        for folder in usual_folders():
            try:
                found = self._in(folder)
            except AdapterError:
                continue
            if found.shape[1] == width:
                return found
        raise BrokenModel(
            "it needs CLIP's text projection, which no checkpoint of this kind holds (nothing is fetched): put "
            f'{CLIP_L} into models/CLIP, or name its folder in the settings, "{settings.CLIP_FOLDER}".'
        )

    def _in(self, folder: Path) -> Tensor:
        if folder not in self._read:
            self._read[folder] = projection_in(folder)
        return self._read[folder]


def usual_folders() -> Iterator[Path]:
    """models/CLIP, one folder down from there, and what other programs have of it in Hugging Face's cache."""
    own = settings.usual_clip_folder()
    yield own
    yield from _subfolders(own)
    yield from _subfolders(_cache() / f"models--{CLIP_L.replace('/', '--')}" / "snapshots")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _cache() -> Path:
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(named) if named else Path(home) / "hub"
