"""Folders full of adapter files as people have them: several trainers, sub-folders, texts and pictures beside some."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.model_layers import unet

PIXEL = bytes.fromhex(  # a whole PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
WORDS = ("ink", "moss", "neon", "quartz", "linen", "ember", "fjord", "glass", "rust", "velvet", "墨", "café")
SUBJECTS = ("style", "character", "place/old", "place/new", "tools", "")
KINDS = ("lora", "loha", "lokr")
RANKS = (4, 8, 16, 32, 64, 128)


def fill(folder: Path, count: int, modules: int = 16) -> None:
    """`count` adapters; every third has a sidecar, every fourth a preview. The same ones each time."""
    for number in range(count):
        path = folder / SUBJECTS[number % len(SUBJECTS)] / f"{WORDS[number % len(WORDS)]} {number:05}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        layout = layers(KINDS[number % 3], modules + number % 5, RANKS[number // 3 % 6])  # some 60 different ones
        write(path, layout, metadata(path.stem, number))
        if number % 3 == 0:
            words = {"activation text": f"{path.stem}, painting", "preferred weight": 0.8, "notes": "mine"}
            path.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
        if number % 4 == 0:
            path.with_suffix(".png").write_bytes(PIXEL)


def write(path: Path, tensors: Mapping[str, Sequence[int]], texts: Mapping[str, str]) -> None:
    """A safetensors file whose tensors are zeros that take no room on disk, except for alpha, which is 1."""
    table: dict[str, Any] = {"__metadata__": dict(texts)}
    position = 0
    for name, shape in sorted(tensors.items(), key=lambda pair: len(pair[1])):  # single numbers first
        size = 4
        for axis in shape:
            size *= axis
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    ones = sum(not shape for shape in tensors.values())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.0) * ones)
        file.truncate(8 + len(header) + position)


def layers(kind: str, modules: int, rank: int = 4) -> dict[str, Sequence[int]]:
    down, up = (rank, 768), (320, rank)
    leaves: dict[str, Mapping[str, Sequence[int]]] = {
        "lora": {"lora_down.weight": down, "lora_up.weight": up},
        "loha": {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": up, "hada_w2_b": down},
        "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (40, rank), "lokr_w2_b": (rank, 96)},
    }
    tensors: dict[str, Sequence[int]] = {}
    for stem in _stems(modules):
        tensors |= {f"{stem}.{leaf}": shape for leaf, shape in leaves[kind].items()}
        tensors[f"{stem}.alpha"] = ()
    return tensors


def _stems(count: int) -> Iterator[str]:
    """SD1's own layers, so that the file is known as what it is; it has 386."""
    for path in islice(sorted(unet("sd1"), key=lambda path: "attn" not in path), count):
        yield f"lora_unet_{path.replace('.', '_')}"


def metadata(name: str, number: int) -> dict[str, str]:
    tags = {f"tag {n}": 100 - n for n in range(number % 60)}
    return {
        "ss_output_name": f"{name} v2" if number % 5 == 0 else name,
        "ss_network_module": "lycoris.kohya",
        "ss_tag_frequency": json.dumps({"10_images": tags}),
        "ss_training_comment": "x" * 200,
    }
