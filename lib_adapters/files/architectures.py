"""Base models that are not a UNet of Stable Diffusion, by the words in their layer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lib_adapters.files.modules import Module
from lib_adapters.files.widths import input_width

# The first that matches decides; the order goes from special to general.
_WORDS = (
    ("sd3", r"^joint_blocks_\d+_(x_block|context_block)"),
    ("auraflow", r"^joint_transformer_blocks_|^double_layers_\d+_"),
    ("chroma", r"^distilled_guidance_layer"),
    ("hidream", r"^(double|single)_stream_blocks_"),
    ("hunyuan", r"^double_blocks_\d+_(img|txt)_mlp_fc\d|^txt_in_individual_token_refiner"),
    ("flux", r"^(double_blocks|single_blocks|single_transformer_blocks)_\d+_"),
    ("qwen-image", r"^transformer_blocks_\d+_(img_mlp|txt_mlp|img_mod|txt_mod)_"),
    ("cascade", r"^(down|up)_blocks_\d+_\d+_(channelwise|attention|mapper|kv_mapper)"),
    ("wan", r"^blocks_\d+_(self_attn|cross_attn)_(q|k|v|o|k_img|v_img)$"),
    ("cosmos", r"^blocks_\d+_(self_attn|cross_attn|adaln_modulation)"),
    ("mochi", r"^(blocks|transformer_blocks)_\d+_(attn_(qkv|proj)_(x|y)|attn1_add_[qkv]_proj)"),
    ("ace-step", r"^(lyric_encoder|genre_embedder|speaker_embedder|lyric_proj)"),
    ("sana", r"^transformer_blocks_\d+_ff_conv_(inverted|depth|point)"),
    ("lumina", r"^(layers_\d+_(attention|feed_forward|attn|adaLN)|context_refiner_|noise_refiner_)"),
    ("hunyuan", r"^blocks_\d+_(attn1_Wqkv|attn2_(q|kv)_proj)"),
)
_PATTERNS = tuple((family, re.compile(pattern, re.M)) for family, pattern in _WORDS)
_JOINT = re.compile(r"^transformer_blocks_\d+_attn_(add_[qkv]_proj|to_add_out|to_[qkv])$", re.M)
_PLAIN = re.compile(r"^transformer_blocks_\d+_(attn[12]|ff)_", re.M)
_FLUX_WIDTH = 3072


def other_architecture(names: str, unet: Sequence[Module]) -> str | None:
    """`names`: one layer per line. None for a Stable Diffusion UNet."""
    for family, pattern in _PATTERNS:
        if pattern.search(names):
            return family
    if _JOINT.search(names):  # SD3 and Flux share these names in diffusers
        return "flux" if any(_is_flux_wide(module) for module in unet) else "sd3"
    return "pixart" if _PLAIN.search(names) else None


def _is_flux_wide(module: Module) -> bool:
    return bool(_JOINT.search(module.stem.name)) and input_width(module.shapes) == _FLUX_WIDTH
