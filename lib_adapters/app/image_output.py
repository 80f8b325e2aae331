"""Shared by `generate` and its sheet: the generator, the settings, and images with their infotext."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from lib_adapters.app import arguments
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.generator import GeneratedImage, Generator, Settings, resolve_seed


def load_generator(args: argparse.Namespace) -> Generator:
    resolver = arguments.resolver_for(args.adapters, args.model)
    presets = arguments.presets_of(args.presets)
    generator = Generator.open(args.model, arguments.device_of(args.device), resolver, clip_folder=args.clip)
    return replace(generator, presets=lambda: presets)


def read_settings(args: argparse.Namespace) -> Settings:
    """The bundled model is small and quick: it needs fewer steps and less guidance than a grown one."""
    small = args.model == arguments.MODEL
    steps = args.steps or (15 if small else 20)
    guidance = (2.5 if small else 7.5) if args.guidance is None else args.guidance
    return Settings(args.negative, steps, resolve_seed(args.seed), guidance, args.size, args.negative_tags)


def output_path(out: Path, name: str, number: int, count: int) -> Path:
    """`out` itself where it names a .png; else a file of this name in the folder `out`, never one that exists."""
    if out.suffix.lower() == ".png":
        arguments.check_name(out)
        return out if count == 1 else out.with_stem(f"{out.stem}-{number + 1}")
    if out.suffix and not out.is_dir():
        raise AdapterError(f"{out}: --out takes a .png file or a folder; other picture formats are not written.")
    taken = {path.stem for path in out.glob("*.png")} if out.is_dir() else set()
    free = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
    return out / f"{next(stem for stem in free if stem not in taken)}.png"


def save(image: Image, file: Path, text: str) -> Path:
    """Under "parameters", where the web UI writes its own and looks for them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text("parameters", text)
    image.save(file, pnginfo=info)
    return file


def infotext(generated: GeneratedImage) -> str:
    settings, image = generated.settings, generated.image
    negative = f"\nNegative prompt: {settings.negative}" if settings.negative else ""
    how = f"Steps: {settings.steps}, CFG scale: {settings.guidance}, Seed: {settings.seed}"
    tags = ", Negative tags: True" if settings.negative_tags else ""
    return f"{generated.prompt}{negative}\n{how}, Size: {image.width}x{image.height}{tags}"


def print_report(image: GeneratedImage) -> None:
    """What was applied goes with the results, what went wrong with the errors."""
    for line in image.report.lines():
        print(line)
    for problem in image.problems:
        print(problem, file=sys.stderr)
