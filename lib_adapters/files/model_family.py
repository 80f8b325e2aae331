"""Detection of the base model that a file was trained for: by its layers and their depth, then by widths.

Tiny models with the structure of SD1 are SD1: widths only decide between families that share a structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lib_adapters.files.adapter_layers import AdapterLayer
from lib_adapters.files.layer_dims import input_width
from lib_adapters.files.tensor_keys import LayerKey

FAMILY_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sdxl-refiner": "the SDXL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
    "chroma": "Chroma",
    "cascade": "Stable Cascade",
    "hunyuan": "Hunyuan",
    "wan": "Wan",
    "qwen-image": "Qwen-Image",
    "hidream": "HiDream",
    "lumina": "Lumina 2 or Z-Image",
    "auraflow": "AuraFlow",
    "sana": "Sana",
    "cosmos": "Cosmos or Anima",
    "mochi": "Mochi",
    "ace-step": "ACE-Step",
    "pixart": "PixArt or LTX-Video",
    "unknown": "an unknown base model",
}

_CROSS_ATTENTION = re.compile(r"attn2_to_[kv]$")
_ENCODER_LAYER = re.compile(r"(?:encoder_layers|resblocks)_(\d{1,4})_")
_TRANSFORMER_BLOCK = re.compile(r"transformer_blocks_(\d{1,4})_")
_ATTENTION_AT_TOP_LEVEL = re.compile(
    r"^(?:down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_[12]_1_|output_blocks_(?:9|10|11)_1_)", re.M
)
_FOUR_LEVELS = re.compile(
    r"^(?:down_blocks_3_|up_blocks_3_|input_blocks_(?:9|10|11)_|output_blocks_(?:9|10|11)_)", re.M
)
_ATTENTION_AT_DEEPEST_LEVEL = re.compile(
    r"^(?:up_blocks_0_attentions|output_blocks_[012]_1_(?:transformer|proj|norm))", re.M
)
_LABEL_EMBEDDING = re.compile(r"^(?:add_embedding|label_emb)_", re.M)
_KERNEL_TENSORS = ("lora_down.weight", "diff", "lokr_w2")  # tensors that keep the kernel axes of their layer
_CROSS_ATTENTION_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}


def family_of(layers: Iterable[AdapterLayer], metadata: Mapping[str, str]) -> str:
    """A key of FAMILY_NAMES: by the UNet's layers, else the text encoders', else what the metadata claims."""
    by_part: dict[str, list[AdapterLayer]] = {}
    for module in layers:
        by_part.setdefault(module.key.component, []).append(module)
    unet = by_part.get("unet", [])
    said = _claimed_family(metadata)
    if unet:
        names = "\n".join(module.key.name for module in unet)
        found = non_unet_family(names, unet) or _unet_family(names, _cross_width(unet), unet)
        if found is not None:
            return found
        if _ATTENTION_AT_TOP_LEVEL.search(names):  # SD1 and SD2 share these layers and their widths
            return next(
                (family for family in (_text_family(by_part, said), said) if family in ("sd1", "sd2")),
                "sd1",
            )
    return _text_family(by_part, said) or said or ("sdxl" if "te1" in by_part else "unknown")


def _cross_width(unet: list[AdapterLayer]) -> int | None:
    for module in unet:
        if _CROSS_ATTENTION.search(module.key.name):
            width = input_width(module.shapes)
            if width is not None:
                return width
    return None


def _unet_family(names: str, cross: int | None, unet: list[AdapterLayer]) -> str | None:
    """Structure first; None where the layers present exist in every UNet family."""
    depths = {int(depth) for depth in _TRANSFORMER_BLOCK.findall(names)}
    if _ATTENTION_AT_TOP_LEVEL.search(names):
        return {768: "sd1", 1024: "sd2"}.get(cross or 0, _by_projection(unet))
    if _ATTENTION_AT_DEEPEST_LEVEL.search(names) or (depths and max(depths) >= 4):
        return "sdxl"
    if _FOUR_LEVELS.search(names):
        return _four_levels(depths, cross, bool(_LABEL_EMBEDDING.search(names)))
    if cross in _CROSS_ATTENTION_WIDTHS:
        return _CROSS_ATTENTION_WIDTHS[cross]
    if depths and max(depths) >= 1:
        return "sdxl-refiner" if max(depths) > 1 else "sdxl"
    return "sdxl" if _LABEL_EMBEDDING.search(names) else None


def _four_levels(depths: set[int], cross: int | None, labels: bool) -> str | None:
    """SD1, SD2 and the refiner have four levels; only the refiner is deeper than one block or has labels."""
    if labels or (depths and max(depths) >= 1) or cross == 1280:
        return "sdxl-refiner"
    return "sd2" if cross == 1024 else ("sd1" if cross is not None else None)


def _by_projection(unet: list[AdapterLayer]) -> str | None:
    """Return the family by the attention's proj_in: linear in SD2, a 1x1 convolution in SD1; None if not present."""
    for module in unet:
        if module.key.name.endswith(("_proj_in", "_proj_out")):
            for tensor_name in _KERNEL_TENSORS:
                if tensor_name in module.shapes:
                    return "sd2" if len(module.shapes[tensor_name]) == 2 else "sd1"
    return None


def _text_family(by_part: Mapping[str, list[AdapterLayer]], said: str | None) -> str | None:
    """Text encoders alone: which exist, how deep, then how wide; where that leaves it open, what is `said`."""
    if "te3" in by_part or "te2" in by_part:
        return "sd3" if "te3" in by_part else "sdxl"
    depth = _depth(by_part.get("te", []))
    if depth is None:
        return None
    width = _text_width(by_part["te"])
    if width == 1280 or depth > 24:
        return "sdxl-refiner"
    if width == 1024 or depth > 12:
        return "sd2"
    if said == "sdxl" or (said == "sd2" and width != 768):  # SDXL's first text encoder is SD1's
        return said
    return "sd1"


def _depth(modules: list[AdapterLayer]) -> int | None:
    layers = [int(found.group(1)) for m in modules if (found := _ENCODER_LAYER.search(m.key.name))]
    return max(layers) + 1 if layers else None


def _text_width(modules: list[AdapterLayer]) -> int | None:
    """Of the model, from a layer that shows its input; the second layer of an MLP has four times as much."""
    for module in modules:
        times = 4 if module.key.name.endswith(("fc2", "c_proj")) else 1
        shows = times > 1 or module.key.name.endswith(("_proj", "fc1", "c_fc"))
        if shows and (width := input_width(module.shapes)):
            return width // times
    return None


_METADATA_CLAIMS = (
    (("sdxl_refiner", "xl-v1-refiner"), "sdxl-refiner"),
    (("sdxl", "stable-diffusion-xl"), "sdxl"),
    (("sd3", "5-medium", "5-large", "stable-diffusion-3"), "sd3"),
    (("flux",), "flux"),
    (("sd_v2", "sd_2", "stable-diffusion-v2"), "sd2"),
    (("sd_v1", "sd_1", "stable-diffusion-v1"), "sd1"),
)


def _claimed_family(metadata: Mapping[str, str]) -> str | None:
    """What the metadata claims; only asked where the tensors leave it open."""
    words = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
    for marks, family in _METADATA_CLAIMS:
        if any(mark in words for mark in marks):
            return family
    if "ss_v2" in metadata:
        return "sd2" if metadata["ss_v2"].lower() == "true" else "sd1"
    return None


# Base models that are not a UNet of Stable Diffusion, by the words in their layer names.


# The first that matches decides; the order goes from special to general.
_NAME_PATTERNS = (
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
_PATTERNS = tuple((family, re.compile(pattern, re.M)) for family, pattern in _NAME_PATTERNS)
_JOINT_ATTENTION = re.compile(r"^transformer_blocks_\d+_attn_(add_[qkv]_proj|to_add_out|to_[qkv])$", re.M)
_PLAIN_TRANSFORMER = re.compile(r"^transformer_blocks_\d+_(attn[12]|ff)_", re.M)
_FLUX_WIDTH = 3072


def non_unet_family(names: str, unet: Sequence[AdapterLayer]) -> str | None:
    """`names`: one layer per line. None for a Stable Diffusion UNet."""
    for family, pattern in _PATTERNS:
        if pattern.search(names):
            return family
    if _JOINT_ATTENTION.search(names):  # SD3 and Flux share these names in diffusers
        return "flux" if any(_is_flux_wide(module) for module in unet) else "sd3"
    return "pixart" if _PLAIN_TRANSFORMER.search(names) else None


def _is_flux_wide(module: AdapterLayer) -> bool:
    return bool(_JOINT_ATTENTION.search(module.key.name)) and input_width(module.shapes) == _FLUX_WIDTH


# Which text encoder a file means, once its family is known.


_MULTI_ENCODER_FAMILIES = frozenset({"sdxl", "sd3", "flux"})  # families with more than one text encoder
_CLIP_G_WIDTH = 1280  # CLIP-G


def resolve_text_encoders(layers: Iterable[AdapterLayer], family: str) -> tuple[tuple[AdapterLayer, ...], list[str]]:
    """`text_encoder.` and `lora_te_` in a file for several encoders mean the first, or the one that is as wide."""
    if family not in _MULTI_ENCODER_FAMILIES:
        return tuple(layers), []
    listed = list(layers)
    wide = any(
        m.key.component == "te" and input_width(m.shapes) == _CLIP_G_WIDTH and "_q_proj" in m.key.name for m in listed
    )
    taken: dict[LayerKey, AdapterLayer] = {}
    clashes: list[str] = []
    for module in listed:
        stem = module.key
        if stem.component == "te":
            stem = LayerKey("te2" if wide else "te1", stem.name)
        if stem in taken:
            clashes.append(f"{module.name} and {taken[stem].name} mean the same layer; only the latter is used")
        else:
            taken[stem] = module if stem == module.key else replace(module, key=stem)
    return tuple(taken.values()), clashes
