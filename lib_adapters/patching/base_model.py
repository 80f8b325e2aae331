"""Detection of a live model's base model: by its layers and their depth; widths only confirm.

A model with Stable Diffusion 1's blocks at a tenth of its width is Stable Diffusion 1 here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from lib_adapters.algorithms.base import Shape


class HasShape(Protocol):
    """A layer, or whatever else has a shape."""

    @property
    def shape(self) -> Shape: ...


Names = Mapping[str, HasShape]  # flattened diffusers or Hugging Face name -> layer


def family_of(unet: Names, text_encoders: Sequence[Names]) -> str:
    """ "sd1", "sd2", "sdxl", "sdxl-refiner", "sd3" or "unknown", from the flattened names of a live model."""
    if any(name.startswith("joint_blocks_") for name in unet):
        return "sd3"
    with_attention = {int(m[1]) for name in unet if (m := re.match(r"down_blocks_(\d)_attentions_", name))}
    if 0 in with_attention:
        return "sd2" if _is_sd2(unet, text_encoders) else "sd1"
    if with_attention:
        deep = any(name.startswith(("down_blocks_3_", "up_blocks_3_")) for name in unet)
        return "sdxl-refiner" if deep else "sdxl"
    return _by_text(text_encoders) if not unet else "unknown"


def _is_sd2(unet: Names, text_encoders: Sequence[Names]) -> bool:
    """Stable Diffusion 2 has linear projections around its attention, 1 has 1x1 convolutions."""
    projections = [layer.shape for name, layer in unet.items() if name.endswith("_proj_in")]
    if projections:
        return len(projections[0]) == 2
    widths = {layer.shape[1] for name, layer in unet.items() if name.endswith("attn2_to_k")}
    return widths == {1024} or (not widths and _by_text(text_encoders) == "sd2")


def _by_text(text_encoders: Sequence[Names]) -> str:
    depths = [_depth(names) for names in text_encoders]
    if len(depths) == 1:
        return {12: "sd1", 23: "sd2", 24: "sd2", 32: "sdxl-refiner"}.get(depths[0], "unknown")
    return {2: "sdxl", 3: "sd3"}.get(len(depths), "unknown")


def _depth(names: Names) -> int:
    pattern = re.compile(r"(?:text_model_)?encoder_layers_(\d+)_")
    return max((int(m[1]) + 1 for name in names if (m := pattern.match(name))), default=0)
