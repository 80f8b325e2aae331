"""Computation of an aesthetic embedding from a folder of images, for the command, the page and the web UI.

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

from lib_adapters.conditioning.aesthetic_file import save_aesthetic
from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import is_portable_name
from lib_adapters.hosts.diffusers.clip_vision import ClipImageEncoder, load_image_encoder
from lib_adapters.prompt.tags import quote_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 16, 256
EMBEDDING_SUFFIXES = (".pt", ".safetensors")

OnProgress = Callable[[int, int], None]  # pictures done, of how many


class Cancelled(AdapterError):
    """The user does not want it any more."""


@dataclass(frozen=True)
class EmbeddingJob:
    """What is needed, found before the work begins."""

    files: Sequence[Path]
    image_encoder: ClipImageEncoder
    clip_name: str  # the CLIP model's name, for the file's metadata
    out: Path
    batch_size: int

    @classmethod
    def prepare(cls, folder: Path, clip: Path, out: Path, batch_size: int, device: torch.device) -> Self:
        """AdapterError says what is missing; nothing is fetched."""
        _check_free(out)
        files = find_images(folder)
        return cls(files, load_image_encoder(clip, device), clip.resolve().name, out, batch_size)


@dataclass(frozen=True)
class EmbeddingResult:
    out: Path
    image_count: int
    width: int
    skipped: Sequence[tuple[str, str]]  # names and reasons

    def summary(self) -> str:
        return (
            f"{self.out}: {self.image_count} pictures, {self.width} wide; write <aesthetic:{quote_name(self.out.stem)}>"
        )

    def skipped_messages(self) -> list[str]:
        return [f"left out: {name} ({reason})" for name, reason in self.skipped]


def create_embedding(job: EmbeddingJob, on_progress: OnProgress, is_cancelled: Callable[[], bool]) -> EmbeddingResult:
    """Stopped if `stopped` says so before the last batch is done. Pictures that cannot be read are left out."""
    features, bad = compute_features(job, on_progress, is_cancelled)
    if not len(features):
        raise AdapterError(f"none of the {len(job.files)} pictures could be read; {bad[0][0]}: {bad[0][1]}.")
    vectors = features.mean(dim=0, keepdim=True)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    _check_free(job.out)  # somebody else may have been quicker
    save_aesthetic(vectors, job.out, {"pictures": str(len(features)), "clip": job.clip_name})
    return EmbeddingResult(job.out, len(features), vectors.shape[1], bad)


def embedding_path(name: str, folder: Path) -> Path:
    """A new `.pt` of this name in the folder itself; AdapterError where that cannot be."""
    stem = name.strip().removesuffix(EMBEDDING_SUFFIXES[0]).strip()
    if stem.startswith(".") or not is_portable_name(stem):
        raise AdapterError(
            f"{name[:80]!r} cannot be a file's name: give a plain one, without folders and without any of "
            '< > : " / \\ | ? *, that neither begins nor ends with a dot.'
        )
    for ending in EMBEDDING_SUFFIXES:
        _check_free(folder / f"{stem}{ending}")  # both would answer to one tag
    return folder / f"{stem}{EMBEDDING_SUFFIXES[0]}"


def parse_folder(text: str, description: str) -> Path:
    """What somebody typed; nothing would mean the folder that the program was started in."""
    path = text.strip().strip('"')  # as Windows copies a path
    if not path:
        raise AdapterError(f"Name {description}.")
    return Path(path).expanduser()


def find_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise AdapterError(f"{folder}: there is no such folder of pictures.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise AdapterError(f"{folder}: there are no pictures in this folder ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def compute_features(
    job: EmbeddingJob, on_progress: OnProgress, is_cancelled: Callable[[], bool]
) -> tuple[Tensor, list[tuple[str, str]]]:
    """[n, d] of the pictures that can be read, and the others with their reasons."""
    found: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    files, total = job.files, len(job.files)
    on_progress(0, total)
    for start in range(0, total, job.batch_size):
        if is_cancelled():
            raise Cancelled("Stopped; nothing was written.")
        if images := list(open_images(files[start : start + job.batch_size], bad)):
            found.append(job.image_encoder.image_features(images))
        on_progress(min(start + job.batch_size, total), total)
    if is_cancelled():
        raise Cancelled("Stopped; nothing was written.")
    return torch.cat(found) if found else torch.empty(0), bad


def open_images(files: Sequence[Path], skipped: list[tuple[str, str]]) -> Iterator[Image.Image]:
    for file in files:
        try:
            with Image.open(file) as image:
                yield ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            skipped.append((file.name, " ".join(str(error).split())[:200]))


def _check_free(out: Path) -> None:
    if out.exists():
        raise AdapterError(f"{out}: this exists already; choose another name.")
