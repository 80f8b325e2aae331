"""Draws the picture that stands for each embedded adapter in lists, and writes what it does beside it.

python -m lib_adapters.demo.previews
"""

from __future__ import annotations

import json

import torch

from lib_adapters.demo import ADAPTERS, MODEL, index
from lib_adapters.demo.train_adapters import GUIDANCE, SHOWN_SEEDS, SHOWN_STEPS
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.hosts.pipeline.studio import Settings, Studio

QUALITY = 88


def main() -> None:
    """`NAME.webp` and `NAME.json`, where the web UI and this bundle look for them."""
    settings = Settings(steps=SHOWN_STEPS, seed=SHOWN_SEEDS[0], guidance=GUIDANCE)
    with Studio.open(MODEL, torch.device("cpu"), Shelf([ADAPTERS])) as studio:
        for name, entry in index().items():
            picture = studio.draw(f"{entry['prompt']} <{entry['tag']}:{name}:1>", settings)
            picture.image.save(ADAPTERS / f"{name}.webp", quality=QUALITY, method=6)
            told = {"description": f"{entry['effect']} Shown with: {entry['prompt']}."}
            (ADAPTERS / f"{name}.json").write_text(json.dumps(told, indent=4) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
