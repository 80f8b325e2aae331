"""kohya's names of a live model's layers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lib_adapters.patching.key_maps import diffusers_to_ldm, resnets_per_level
from lib_adapters.patching.layers import flat

KOHYA_COMPONENTS = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}


def kohya_name(component: str, path: str, components: Mapping[str, nn.Module]) -> str:
    """As kohya's sd-scripts spell it: diffusers' UNet paths for one text encoder, LDM's for two (SDXL)."""
    two = "text_encoder_2" in components
    if component == "unet":
        return f"lora_unet_{flat(ldm_path(path, components['unet']) if two else path)}"
    return f"lora_{KOHYA_COMPONENTS[component] if two else 'te'}_{flat(with_text_model(path))}"


def ldm_path(path: str, unet: nn.Module) -> str:
    modules = dict(unet.named_modules())
    return diffusers_to_ldm(path, modules.__contains__, resnets_per_level(modules)) or path


def with_text_model(path: str) -> str:
    """transformers 5 dropped this level; files have it."""
    return f"text_model.{path}" if path.startswith(("encoder.", "embeddings.", "final_layer_norm")) else path
