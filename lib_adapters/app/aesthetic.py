"""`aesthetic create`: an aesthetic embedding from a folder of pictures.

The mean of their CLIP features, each as long as it is, as the first generator of such files made it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib_adapters.app import options
from lib_adapters.app.progress import bar
from lib_adapters.conditioning.aesthetic import save_aesthetic
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.pipeline.vision import Vision, open_vision
from lib_adapters.prompt.tags import quoted

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
BATCH = 16


def add(commands: options.Commands) -> None:
    kinds = commands.add_parser("aesthetic", help="make an aesthetic embedding", description=__doc__)
    command = kinds.add_subparsers(required=True, metavar="create").add_parser("create", description=__doc__)
    command.add_argument("folder", type=Path, help="the pictures; its subfolders too")
    command.add_argument(
        "--clip", type=Path, required=True, metavar="DIR", help="a local CLIP model with its image side"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors or .pt file")
    command.add_argument(
        "--batch", type=options.at_least_one, default=BATCH, help=f"pictures at once (default {BATCH})"
    )
    command.add_argument("--device", type=options.device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    options.check_new(given.out, ".safetensors", ".pt")
    files = pictures_in(given.folder)
    vision = open_vision(given.clip, options.device_of(given.device))
    features, bad = features_of(files, vision, given.batch)
    for name, reason in bad:
        print(f"left out: {name} ({reason})", file=sys.stderr)
    if not len(features):
        raise AdapterError(f"{given.folder}: none of its {len(files)} pictures could be read.")
    vectors = features.mean(dim=0, keepdim=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_aesthetic(vectors, given.out, {"pictures": str(len(features)), "clip": given.clip.resolve().name})
    print(f"{given.out}: {len(features)} pictures, {vectors.shape[1]} wide; write <aesthetic:{quoted(given.out.stem)}>")
    return 0


def pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise AdapterError(f"{folder}: there is no such folder of pictures.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
    if not files:
        raise AdapterError(f"{folder}: there are no pictures in this folder ({', '.join(PICTURES)}).")
    return files


def features_of(files: list[Path], vision: Vision, batch: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """[n, d] of the pictures that can be read, and the others with their reasons."""
    found: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    with bar(len(files), "Looking", "picture") as reached:
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            if pictures := list(_opened(part, bad)):
                found.append(vision.features(pictures))
            reached(start, len(part))
    return torch.cat(found) if found else torch.empty(0), bad


def _opened(files: list[Path], bad: list[tuple[str, str]]) -> Iterator[Image.Image]:
    for file in files:
        try:
            with Image.open(file) as picture:
                yield ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            bad.append((file.name, " ".join(str(error).split())[:200]))
