"""Draws the picture that stands for each embedded file in lists, and writes what it does beside it.

python -m lib_adapters.demo.previews
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lib_adapters.demo import ADAPTERS, AESTHETICS, MODEL
from lib_adapters.demo.train_adapters import GUIDANCE, SHOWN_SEEDS, SHOWN_STEPS
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings

QUALITY = 88
FOLDERS = (ADAPTERS, AESTHETICS)


def main() -> None:
    with Generator.open(MODEL, torch.device("cpu"), FolderResolver(FOLDERS)) as generator:
        for folder in FOLDERS:
            for name, entry in json.loads((folder / "README.json").read_text(encoding="utf-8")).items():
                show(generator, folder, name, entry)


def show(generator: Generator, folder: Path, name: str, entry: dict[str, str]) -> None:
    """`NAME.webp` and `NAME.json`, where the web UI and this bundle look for them."""
    settings = Settings(steps=SHOWN_STEPS, seed=SHOWN_SEEDS[0], guidance=GUIDANCE)
    tag = f"<{entry['tag']}:{name}:{entry.get('strength', 1)}>"
    generator.generate(f"{entry['prompt']} {tag}", settings).image.save(
        folder / f"{name}.webp", quality=QUALITY, method=6
    )
    told = {"description": f"{entry['effect']} Shown with: {entry['prompt']} {tag}"}
    (folder / f"{name}.json").write_text(json.dumps(told, indent=4) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
