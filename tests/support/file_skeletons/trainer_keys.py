"""What each trainer writes for given layers: {key: shape}."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from tests.support.file_skeletons.base_model_layers import Layers

RANK = 4
Keys = dict[str, tuple[int, ...]]
Leaves = Callable[[tuple[int, ...]], Keys]


def lora(shape: tuple[int, ...]) -> Keys:
    return {
        "lora_down.weight": (RANK, *shape[1:]),
        "lora_up.weight": (shape[0], RANK, *(1 for _ in shape[2:])),
        "alpha": (),
    }


def loha(shape: tuple[int, ...]) -> Keys:
    flat = math.prod(shape[1:])
    halves = {f"hada_w{n}_a": (shape[0], RANK) for n in (1, 2)} | {f"hada_w{n}_b": (RANK, flat) for n in (1, 2)}
    return halves | {"alpha": ()}


def lokr(shape: tuple[int, ...]) -> Keys:
    return {"lokr_w1": (4, 4), "lokr_w2": (shape[0] // 4, shape[1] // 4, *shape[2:]), "alpha": ()}


def dora(shape: tuple[int, ...]) -> Keys:
    return lora(shape) | {"dora_scale": (shape[0], *(1 for _ in shape[1:]))}


def ia3(shape: tuple[int, ...]) -> Keys:
    return {"weight": (shape[0], *(1 for _ in shape[2:])), "on_input": ()}


def oft(shape: tuple[int, ...]) -> Keys:
    size = min(8, shape[0])
    return {"oft_blocks": (shape[0] // size, size, size), "alpha": ()}


def full(shape: tuple[int, ...]) -> Keys:
    return {"diff": shape, "diff_b": shape[:1]}


def renamed(down: str, up: str, alpha: str = "", magnitude: str = "") -> Leaves:
    """A LoRA under another trainer's leaf names; no alpha unless it has a name."""

    def leaves(shape: tuple[int, ...]) -> Keys:
        pair = lora(shape)
        found: Keys = {down: pair["lora_down.weight"], up: pair["lora_up.weight"]}
        if alpha:
            found[alpha] = ()
        return found | ({magnitude: shape[:1]} if magnitude else {})

    return leaves


def flattened(prefix: str, layers: Layers, leaves: Leaves = lora) -> Keys:
    return {
        f"{prefix}{path.replace('.', '_')}.{leaf}": size
        for path, shape in layers.items()
        for leaf, size in leaves(shape).items()
    }


def dotted(prefix: str, layers: Layers, leaves: Leaves = lora, joint: str = ".") -> Keys:
    return {
        f"{prefix}{path}{joint}{leaf}": size for path, shape in layers.items() for leaf, size in leaves(shape).items()
    }


def processors(prefix: str, layers: Layers) -> Keys:
    """diffusers 0.12-0.16: the factors sat in the attention processor, and `to_out` had no number."""
    found: Keys = {}
    for path, shape in layers.items():
        attention, _, leaf = path.removesuffix(".0").rpartition(".")
        if ".attn" in path:
            pair = lora(shape)
            found[f"{prefix}{attention}.processor.{leaf}_lora.down.weight"] = pair["lora_down.weight"]
            found[f"{prefix}{attention}.processor.{leaf}_lora.up.weight"] = pair["lora_up.weight"]
    return found


def positional(layers: Layers, text: Layers) -> Keys:
    """cloneofsimo: only places. `layers` must come in the order of `named_modules()`."""
    found: Keys = {}
    for part, listed in (("unet", layers), ("text_encoder", text)):
        for n, shape in enumerate(listed.values()):
            found |= {f"{part}:{n}:down": (RANK, shape[1]), f"{part}:{n}:up": (shape[0], RANK)}
    return found


def write(path: Path, keys: Keys, metadata: dict[str, str] | None = None, dtype: str = "F16") -> Path:
    """A sound safetensors file whose data are a hole: a skeleton of a real file costs no disk."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for key, shape in keys.items():
        size = math.prod(shape) * {"F16": 2, "F32": 4, "BF16": 2, "F8_E4M3": 1}[dtype]
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + position)
    return path
