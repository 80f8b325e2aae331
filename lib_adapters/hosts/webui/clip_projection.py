"""Selection of the text encoder that an aesthetic embedding fits, and loading of its CLIP projection.

OpenCLIP's encoders have theirs in every checkpoint, CLIP-L's is in none: it comes from a folder on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib_adapters.conditioning.aesthetic_file import AestheticEmbedding
from lib_adapters.conditioning.clip_features import load_text_projection, text_projection
from lib_adapters.errors import AdapterError, FamilyMismatch, InvalidModelFolder
from lib_adapters.hosts.webui import settings
from lib_adapters.hosts.webui.model_components import embedders_of, text_encoder_of

CLIP_L = "openai/clip-vit-large-patch14"
# Other repositories with the same CLIP-L and its projection: open_clip's copy, and Stable Diffusion 3's first encoder.
_REPOSITORIES = (
    "timm/vit_large_patch14_clip_224.openai",
    "AUTOMATIC/stable-diffusion-3-medium-text-encoders",
    "stabilityai/stable-diffusion-3*",
)
_SUFFIXES = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class EncoderMatch:
    """One of the host's embedders; held for one picture, never longer."""

    embedder: Any
    projection: Tensor  # [d, w]


class ProjectionLoader:
    """Those that were read from folders are kept: they are small."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Tensor] = {}

    def match(self, model: nn.Module, aesthetic: AestheticEmbedding) -> EncoderMatch:
        """AdapterError where no encoder fits, or where nobody knows its projection."""
        widths, lacking, reason = [], 0, ""
        for embedder in embedders_of(model):
            try:
                projection = self._projection(text_encoder_of(embedder))
            except AdapterError as error:
                lacking, reason = lacking + 1, str(error)
                continue
            if projection.shape[0] == aesthetic.width:
                return EncoderMatch(embedder, projection)
            widths.append(str(projection.shape[0]))
        name = aesthetic.path.name
        if lacking:
            raise InvalidModelFolder(f"{name}: {reason}")
        if not widths:
            raise FamilyMismatch(f"{name}: this model has no CLIP text encoder, so aesthetic gradients cannot be used.")
        raise FamilyMismatch(
            f"{name} is {aesthetic.width} wide, but what this model's texts are compared in is {' or '.join(widths)} "
            "wide: use an embedding made with this model's CLIP."
        )

    def _projection(self, tower: nn.Module) -> Tensor:
        own = text_projection(tower)
        return self._local_projection(tower) if own is None else own

    def _local_projection(self, tower: nn.Module) -> Tensor:
        width = int(getattr(getattr(tower, "config", None), "hidden_size", 0))
        named = settings.clip_folder()
        if named is not None:
            found = self._load(named)
            if found.shape[1] == width:
                return found
            raise InvalidModelFolder(f"the CLIP model in {named} belongs to another text encoder than this model's.")
        for place in clip_search_paths():
            try:
                found = self._load(place)
            except AdapterError:
                continue
            if found.shape[1] == width:
                return found
        raise InvalidModelFolder(
            "it needs CLIP's text projection, which checkpoints of this kind lack and which is not downloaded "
            f"automatically. Put model.safetensors of {CLIP_L} (on Hugging Face, 1.7 GB) into "
            f"{settings.default_clip_folder()}, or enter its folder or file in the settings, "
            f'"{settings.CLIP_FOLDER_LABEL}".'
        )

    def _load(self, place: Path) -> Tensor:
        if place not in self._loaded:
            self._loaded[place] = load_text_projection(place)
        return self._loaded[place]


def clip_search_paths() -> Iterator[Path]:
    """Yield the folders and files that may contain CLIP-L with its projection, the user's own first.

    These are models/CLIP (also the place of Stable Diffusion 3's clip_l.safetensors), the places of ViT-L-14.pt of the
    web UI's interrogator and of the clip package, Hugging Face's cache, and Stable Diffusion 3 checkpoints.
    """
    yield from clip_search_folders()
    yield from _files(settings.default_clip_folder())
    yield from (
        folder / "ViT-L-14.pt" for folder in (*settings.interrogator_clip_folders(), Path.home() / ".cache" / "clip")
    )
    for hub in _hubs():
        for pattern in _REPOSITORIES:
            for snapshot in _matching(hub, f"models--{pattern.replace('/', '--')}/snapshots/*"):
                yield from (snapshot, snapshot / "text_encoder", snapshot / "text_encoders")
    for folder in settings.checkpoint_folders():
        yield from _matching(folder, "sd3*incl_clips*.safetensors")


def clip_search_folders() -> Iterator[Path]:
    """models/CLIP, one folder down from there, and what other programs have of it in Hugging Face's cache."""
    own = settings.default_clip_folder()
    yield own
    yield from (path for path in _matching(own, "*") if path.is_dir())
    for hub in _hubs():
        yield from _matching(hub, f"models--{CLIP_L.replace('/', '--')}/snapshots/*")


def _files(folder: Path) -> list[Path]:
    return [path for path in _matching(folder, "*") if path.suffix.lower() in _SUFFIXES and path.is_file()]


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _hubs() -> list[Path]:
    """Return Hugging Face's cache folders as its libraries locate them, including by deprecated variables."""
    named = [os.environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return list(dict.fromkeys([*(Path(one).expanduser() for one in named if one), home.expanduser() / "hub"]))
