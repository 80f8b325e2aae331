"""Arguments that several commands share, and their conversion to values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import decode_text, is_portable_name
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.prompt.block_presets import BUILT_IN, merge_presets, parse_presets
from lib_adapters.prompt.block_weights import Presets

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
DEMO = Path(__file__).resolve().parent.parent / "demo"
MODEL = DEMO / "model"
ADAPTERS = DEMO / "adapters"
AESTHETICS = DEMO / "aesthetic_embeddings"
DEFAULT_FOLDERS = {"adapters", "lora", "loras", "lycoris", "hypernetworks", "aesthetic_embeddings"}


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", type=Path, default=MODEL, metavar="DIR", help="a diffusers folder (default: demo's)"
    )
    command.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")


def add_clip(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--clip",
        type=Path,
        metavar="DIR",
        help="for <aesthetic:...>: the text encoder's CLIP model (default: a folder 'clip' in or beside the model)",
    )


def add_adapters(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--adapters",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="where adapters lie (default: the demo's, and folders such as lora and hypernetworks beside the model)",
    )
    command.add_argument(
        "--presets", type=Path, metavar="FILE", help="block weights by name for lbw=, NAME:1,0,... to a line"
    )


def presets_of(file: Path | None) -> Presets:
    """The well-known ones, and the file's."""
    if file is None:
        return BUILT_IN
    if not file.is_file():
        raise AdapterError(f"{file}: there is no such file of presets.")
    found, problems = parse_presets(decode_text(file.read_bytes()))
    if problems:
        raise AdapterError(f"{file}: {problems[0]}")
    return merge_presets(BUILT_IN, found)


def device_name(word: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", word):
        raise argparse.ArgumentTypeError(f"{word!r} is no device; it is auto, cpu, cuda, cuda:N or mps")
    return word


def at_least_one(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", word) or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def image_size(word: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:[xX×]([0-9]{1,5}))?", word)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not width or not height or width % 8 or height % 8:
        raise argparse.ArgumentTypeError(f"{word!r} is no size; it is WIDTHxHEIGHT or one number, multiples of 8")
    return width, height


def check_new(out: Path, *endings: str) -> None:
    """What is about to be written takes nobody's place and has the name of what it will be."""
    check_name(out)
    if out.exists():
        raise AdapterError(f"{out}: this exists already; choose another name.")
    if endings and out.suffix.lower() not in endings:
        raise AdapterError(f"{out}: what is written ends in {' or '.join(endings)}; give it such a name.")


def check_name(out: Path) -> None:
    """What is written can be taken to any other system."""
    if out.name and not is_portable_name(out.name):
        raise AdapterError(
            f"{out}: not every system can have a file of this name; choose a plain one, none of Windows' devices "
            '(con, aux, nul ...), at most 200 bytes, without < > : " | ? * and without a dot or a space at its end.'
        )


def device_of(word: str) -> torch.device:
    if word.startswith("cuda") and not torch.cuda.is_available():
        raise AdapterError(f"--device {word}: torch sees no CUDA device here; leave it out or say --device cpu.")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if word == "auto" else torch.device(word)


def resolver_for(folders: Sequence[Path], model: Path) -> FolderResolver:
    return FolderResolver(adapter_folders(folders, model))


def adapter_folders(folders: Sequence[Path], model: Path) -> list[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise AdapterError(f"{folder}: there is no such folder of adapters.")
    return list(folders) or list(dict.fromkeys([ADAPTERS, *_beside(model)]))


def _beside(model: Path) -> list[Path]:
    parent = model.resolve().parent
    return (
        sorted(p for p in parent.iterdir() if p.is_dir() and p.name.lower() in DEFAULT_FOLDERS)
        if parent.is_dir()
        else []
    )
