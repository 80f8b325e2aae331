"""The block of a layer under the names of lora-block-weight: IN00..OUT11, M00, TE00.

A name of either spelling (LDM, diffusers) gives the same block, because both are counted the same way: two resnets to a
level in the encoder and a sampler behind them, three in the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lib_adapters.files.tensor_keys import LayerKey

BLOCK_COUNTS = {"sd1": 12, "sd2": 12, "sdxl": 9, "sdxl-refiner": 12}  # input blocks, and as many output blocks

_UNET_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"input_blocks_(\d+)_"), lambda m: f"IN{int(m[1]):02}"),
    (re.compile(r"output_blocks_(\d+)_"), lambda m: f"OUT{int(m[1]):02}"),
    (re.compile(r"down_blocks_(\d+)_downsamplers_"), lambda m: f"IN{3 * int(m[1]) + 3:02}"),
    (re.compile(r"down_blocks_(\d+)_[a-z]+_(\d+)_"), lambda m: f"IN{3 * int(m[1]) + int(m[2]) + 1:02}"),
    (re.compile(r"up_blocks_(\d+)_upsamplers_"), lambda m: f"OUT{3 * int(m[1]) + 2:02}"),
    (re.compile(r"up_blocks_(\d+)_[a-z]+_(\d+)_"), lambda m: f"OUT{3 * int(m[1]) + int(m[2]):02}"),
    (re.compile(r"(?:middle|mid)_block_"), lambda m: "M00"),
    (re.compile(r"conv_in\b"), lambda m: "IN00"),
    (re.compile(r"time_embed|add_embedding|label_emb|class_embedding"), lambda m: "TIME"),
    (re.compile(r"conv_norm_out|conv_out|out_[02]\b"), lambda m: "LAST"),
    (re.compile(r"((?:[a-z]+_)*?[a-z]*(?:blocks|layers))_(\d+)_"), lambda m: f"{m[1]} {int(m[2]):02}"),
)
_TEXT_LAYER = re.compile(r"(?:layers|resblocks|block)_(\d+)_")
_BLOCK_ORDER = ("TE", "TIME", "IN", "M0", "OUT", "LAST")


def block_label(key: LayerKey) -> str:
    """`M00`, `TE1 07`; a name that is no layer in a block is itself a row."""
    if key.component != "unet":
        layer = _TEXT_LAYER.search(key.name)
        return f"{key.component.upper()} {int(layer[1]):02}" if layer else f"{key.component.upper()} other"
    for pattern, label in _UNET_PATTERNS:
        if match := pattern.match(key.name):
            return label(match)
    return "other"


def family_blocks(family: str) -> list[str]:
    """The rows a chart of this family shows even where the file does not touch them."""
    count = BLOCK_COUNTS.get(family, 0)
    ins, outs = ([f"{side}{n:02}" for n in range(count)] for side in ("IN", "OUT"))
    return [*ins, "M00", *outs] if count else []


def sort_blocks(blocks: set[str]) -> list[str]:
    """As the picture passes through them: text encoders, then the UNet from its first block to its last."""

    def rank(block: str) -> tuple[int, str]:
        return next((n for n, start in enumerate(_BLOCK_ORDER) if block.startswith(start)), len(_BLOCK_ORDER)), block

    return sorted(blocks, key=rank)


_JOINT = re.compile(r"(joint_blocks|transformer_blocks|double_blocks|single_blocks) (\d+)")
_BLOCK_PREFIXES = {"joint_blocks": "J", "transformer_blocks": "J", "double_blocks": "D", "single_blocks": "S"}


def weight_block(key: LayerKey) -> str:
    """As `block_of`, in the names of block weights (prompt/layouts.py): the text encoders are one block, BASE.

    "" for what lies in no block.
    """
    if key.component != "unet":
        return "BASE"
    label = block_label(key)
    if match := _JOINT.fullmatch(label):
        return f"{_BLOCK_PREFIXES[match[1]]}{match[2]}"
    return label if re.fullmatch(r"IN\d+|OUT\d+|M00|TIME|LAST", label) else ""
