"""An aesthetic embedding from a folder of pictures, for whoever asks: a command, a page, the web UI.

It is the mean of their CLIP features, each as long as it is, as the first generator of such files made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from typing_extensions import Self

from lib_adapters.conditioning.aesthetic import save_aesthetic
from lib_adapters.errors import AdapterError
from lib_adapters.files.platforms import is_portable
from lib_adapters.hosts.pipeline.vision import Vision, open_vision
from lib_adapters.prompt.tags import quoted

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
BATCH, MOST_AT_ONCE = 16, 256
ENDINGS = (".pt", ".safetensors")

Reached = Callable[[int, int], None]  # pictures done, of how many


class Stopped(AdapterError):
    """The user does not want it any more."""


@dataclass(frozen=True)
class Asked:
    """What is needed, found before the work begins."""

    files: Sequence[Path]
    vision: Vision
    clip: str  # the CLIP model's name, for the file's metadata
    out: Path
    batch: int

    @classmethod
    def of(cls, pictures: Path, clip: Path, out: Path, batch: int, device: torch.device) -> Self:
        """AdapterError says what is missing; nothing is fetched."""
        _check_free(out)
        files = pictures_in(pictures)
        return cls(files, open_vision(clip, device), clip.resolve().name, out, batch)


@dataclass(frozen=True)
class Made:
    out: Path
    pictures: int
    width: int
    left_out: Sequence[tuple[str, str]]  # names and reasons

    def line(self) -> str:
        return f"{self.out}: {self.pictures} pictures, {self.width} wide; write <aesthetic:{quoted(self.out.stem)}>"

    def problems(self) -> list[str]:
        return [f"left out: {name} ({reason})" for name, reason in self.left_out]


def create(asked: Asked, reached: Reached, stopped: Callable[[], bool]) -> Made:
    """Stopped if `stopped` says so before the last batch is done. Pictures that cannot be read are left out."""
    features, bad = features_of(asked, reached, stopped)
    if not len(features):
        raise AdapterError(f"none of the {len(asked.files)} pictures could be read; {bad[0][0]}: {bad[0][1]}.")
    vectors = features.mean(dim=0, keepdim=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    _check_free(asked.out)  # somebody else may have been quicker
    save_aesthetic(vectors, asked.out, {"pictures": str(len(features)), "clip": asked.clip})
    return Made(asked.out, len(features), vectors.shape[1], bad)


def file_of(name: str, folder: Path) -> Path:
    """A new `.pt` of this name in the folder itself; AdapterError where that cannot be."""
    stem = name.strip().removesuffix(ENDINGS[0]).strip()
    if stem.startswith(".") or not is_portable(stem):
        raise AdapterError(
            f"{name[:80]!r} cannot be a file's name: give a plain one, without folders and without any of "
            '< > : " / \\ | ? *, that neither begins nor ends with a dot.'
        )
    for ending in ENDINGS:
        _check_free(folder / f"{stem}{ending}")  # both would answer to one tag
    return folder / f"{stem}{ENDINGS[0]}"


def folder_of(text: str, what: str) -> Path:
    """What somebody typed; nothing would mean the folder that the program was started in."""
    path = text.strip().strip('"')  # as Windows copies a path
    if not path:
        raise AdapterError(f"Name {what}.")
    return Path(path).expanduser()


def pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise AdapterError(f"{folder}: there is no such folder of pictures.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
    if not files:
        raise AdapterError(f"{folder}: there are no pictures in this folder ({', '.join(PICTURES)}).")
    return files


def features_of(asked: Asked, reached: Reached, stopped: Callable[[], bool]) -> tuple[Tensor, list[tuple[str, str]]]:
    """[n, d] of the pictures that can be read, and the others with their reasons."""
    found: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    files, total = asked.files, len(asked.files)
    reached(0, total)
    for start in range(0, total, asked.batch):
        if stopped():
            raise Stopped("Stopped; nothing was written.")
        if pictures := list(opened(files[start : start + asked.batch], bad)):
            found.append(asked.vision.features(pictures))
        reached(min(start + asked.batch, total), total)
    if stopped():
        raise Stopped("Stopped; nothing was written.")
    return torch.cat(found) if found else torch.empty(0), bad


def opened(files: Sequence[Path], bad: list[tuple[str, str]]) -> Iterator[Image.Image]:
    for file in files:
        try:
            with Image.open(file) as picture:
                yield ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            bad.append((file.name, " ".join(str(error).split())[:200]))


def _check_free(out: Path) -> None:
    if out.exists():
        raise AdapterError(f"{out}: this exists already; choose another name.")
