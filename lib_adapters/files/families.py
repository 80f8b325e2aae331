"""Which base model a file was trained for: told by structure (which layers exist, how deep), then by widths.

Tiny models with the structure of SD1 are SD1: widths only decide between families that share a structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lib_adapters.files.architectures import other_architecture
from lib_adapters.files.modules import Module
from lib_adapters.files.widths import input_width

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

_CROSS = re.compile(r"attn2_to_[kv]$")
_LAYER = re.compile(r"(?:encoder_layers|resblocks)_(\d{1,4})_")
_DEEP = re.compile(r"transformer_blocks_(\d{1,4})_")
_SHALLOW_START = re.compile(
    r"^(?:down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_[12]_1_|output_blocks_(?:9|10|11)_1_)", re.M
)
_FOUR_LEVELS = re.compile(
    r"^(?:down_blocks_3_|up_blocks_3_|input_blocks_(?:9|10|11)_|output_blocks_(?:9|10|11)_)", re.M
)
_DEEP_START = re.compile(r"^(?:up_blocks_0_attentions|output_blocks_[012]_1_(?:transformer|proj|norm))", re.M)
_LABELS = re.compile(r"^(?:add_embedding|label_emb)_", re.M)
_KERNELS = ("lora_down.weight", "diff", "lokr_w2")  # tensors that keep the kernel axes of their layer
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}


def family_of(modules: Iterable[Module], metadata: Mapping[str, str]) -> str:
    """A key of FAMILY_NAMES: by the UNet's layers, else the text encoders', else what the metadata claims."""
    by_part: dict[str, list[Module]] = {}
    for module in modules:
        by_part.setdefault(module.stem.part, []).append(module)
    unet = by_part.get("unet", [])
    said = _said(metadata)
    if unet:
        names = "\n".join(module.stem.name for module in unet)
        found = other_architecture(names, unet) or _unet_family(names, _cross_width(unet), unet)
        if found is not None:
            return found
        if _SHALLOW_START.search(names):  # SD1 and SD2 share these layers and their widths
            return next(
                (family for family in (_text_family(by_part, said), said) if family in ("sd1", "sd2")),
                "sd1",
            )
    return _text_family(by_part, said) or said or ("sdxl" if "te1" in by_part else "unknown")


def _cross_width(unet: list[Module]) -> int | None:
    for module in unet:
        if _CROSS.search(module.stem.name):
            width = input_width(module.shapes)
            if width is not None:
                return width
    return None


def _unet_family(names: str, cross: int | None, unet: list[Module]) -> str | None:
    """Structure first; None where the layers present exist in every UNet family."""
    depths = {int(depth) for depth in _DEEP.findall(names)}
    if _SHALLOW_START.search(names):
        return {768: "sd1", 1024: "sd2"}.get(cross or 0, _by_projection(unet))
    if _DEEP_START.search(names) or (depths and max(depths) >= 4):
        return "sdxl"
    if _FOUR_LEVELS.search(names):
        return _four_levels(depths, cross, bool(_LABELS.search(names)))
    if cross in _WIDTHS:
        return _WIDTHS[cross]
    if depths and max(depths) >= 1:
        return "sdxl-refiner" if max(depths) > 1 else "sdxl"
    return "sdxl" if _LABELS.search(names) else None


def _four_levels(depths: set[int], cross: int | None, labels: bool) -> str | None:
    """SD1, SD2 and the refiner have four levels; only the refiner is deeper than one block or has labels."""
    if labels or (depths and max(depths) >= 1) or cross == 1280:
        return "sdxl-refiner"
    return "sd2" if cross == 1024 else ("sd1" if cross is not None else None)


def _by_projection(unet: list[Module]) -> str | None:
    """Return the family by the attention's proj_in: linear in SD2, a 1x1 convolution in SD1; None if not present."""
    for module in unet:
        if module.stem.name.endswith(("_proj_in", "_proj_out")):
            for leaf in _KERNELS:
                if leaf in module.shapes:
                    return "sd2" if len(module.shapes[leaf]) == 2 else "sd1"
    return None


def _text_family(by_part: Mapping[str, list[Module]], said: str | None) -> str | None:
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


def _depth(modules: list[Module]) -> int | None:
    layers = [int(found.group(1)) for m in modules if (found := _LAYER.search(m.stem.name))]
    return max(layers) + 1 if layers else None


def _text_width(modules: list[Module]) -> int | None:
    """Of the model, from a layer that shows its input; the second layer of an MLP has four times as much."""
    for module in modules:
        times = 4 if module.stem.name.endswith(("fc2", "c_proj")) else 1
        shows = times > 1 or module.stem.name.endswith(("_proj", "fc1", "c_fc"))
        if shows and (width := input_width(module.shapes)):
            return width // times
    return None


_SAYINGS = (
    (("sdxl_refiner", "xl-v1-refiner"), "sdxl-refiner"),
    (("sdxl", "stable-diffusion-xl"), "sdxl"),
    (("sd3", "5-medium", "5-large", "stable-diffusion-3"), "sd3"),
    (("flux",), "flux"),
    (("sd_v2", "sd_2", "stable-diffusion-v2"), "sd2"),
    (("sd_v1", "sd_1", "stable-diffusion-v1"), "sd1"),
)


def _said(metadata: Mapping[str, str]) -> str | None:
    """What the metadata claims; only asked where the tensors leave it open."""
    words = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
    for marks, family in _SAYINGS:
        if any(mark in words for mark in marks):
            return family
    if "ss_v2" in metadata:
        return "sd2" if metadata["ss_v2"].lower() == "true" else "sd1"
    return None
