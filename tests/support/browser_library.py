"""Small adapter files, written by hand: ten thousand of them have to be made quickly."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
_LEAVES = {
    "LoRA": {"lora_down.weight": (2, "i"), "lora_up.weight": (320, 2), "alpha": ()},
    "LoHa": {"hada_w1_a": (320, 2), "hada_w1_b": (2, "i"), "hada_w2_a": (320, 2), "hada_w2_b": (2, "i"), "alpha": ()},
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (160, "i/2"), "alpha": ()},
    "IA3": {"weight": (320,), "on_input": ()},
}


def adapter_bytes(family: str = "sd1", algorithm: str = "LoRA", metadata: Mapping[str, str] | None = None) -> bytes:
    """A file whose cross attention says which family it is for; every value is 0.01."""
    width = WIDTHS[family]
    sizes = {"i": width, "i/2": width // 2}
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for leaf, dims in _LEAVES[algorithm].items():
        shape = [sizes.get(dim, dim) for dim in dims]
        count = 1
        for dim in shape:
            count *= dim
        raw = struct.pack("<e", 0.01) * count
        header[f"{stem}.{leaf}"] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def adapter(
    path: Path,
    family: str = "sd1",
    algorithm: str = "LoRA",
    metadata: Mapping[str, str] | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(adapter_bytes(family, algorithm, metadata))
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar), "utf-8")
    return path


def picture(color: tuple[int, int, int] = (90, 120, 160), size: tuple[int, int] = (96, 128)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def hundred(folder: Path) -> None:
    """What most tests look at: some families, algorithms and folders, and 88 plain ones."""
    words = {"activation text": "inkstyle, rough lines", "preferred weight": 0.8, "negative text": "photo"}
    adapter(folder / "style/ink.safetensors", sidecar=words | {"description": "Ink drawings"})
    adapter(folder / "style/flat.safetensors", "sdxl", "LoHa")
    adapter(folder / "style/deep/oil.safetensors", algorithm="LoKr", metadata=training())
    adapter(folder / "people/anna.safetensors", algorithm="IA3")
    adapter(folder / "people/same.safetensors")
    adapter(folder / "style/same.safetensors")
    adapter(folder / "Ünïcode 名前 (v1.0) [+*].safetensors", sidecar={"activation text": "名前, (smile:1.2)"})
    adapter(folder / "sets.safetensors")
    (folder / "sets.civitai.info").write_text(json.dumps({"trainedWords": ["red dress, hat", "blue coat"]}), "utf-8")
    (folder / "broken.safetensors").write_bytes(b"this is no adapter")
    (folder / "style/ink.png").write_bytes(picture())
    for number in range(88):
        adapter(folder / f"plain/number {number}.safetensors")


def training() -> dict[str, str]:
    counts = {"10_oil": {"brush strokes": 40, "canvas": 31, "1girl": 12}}
    return {"ss_tag_frequency": json.dumps(counts), "ss_output_name": "oil painting", "modelspec.title": "Oil painting"}
