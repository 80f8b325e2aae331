"""Models of each family on the meta device, for the names of their layers.

Only structure matters here, so the widths are as small as they can be and nothing is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lib_adapters.errors import AdapterError
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.hosts.diffusers.kohya_names import with_text_model
from lib_adapters.patching.layers import LayerTable

_FOUR_LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (8, 16, 32, 32),  # as the real widths: where they change, a resnet has a shortcut
}
_UNETS: dict[str, dict[str, Any]] = {
    "sd1": _FOUR_LEVELS,
    "sd2": _FOUR_LEVELS | {"use_linear_projection": True},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16, 32),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56,
    },
}
_ENCODER_LAYERS = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}


@dataclass(frozen=True)
class MetaModel:
    """`roots` as a pipeline names its components; all parameters are on the meta device."""

    family: str
    components: dict[str, nn.Module]

    @classmethod
    def for_family(cls, family: str) -> MetaModel:
        if family not in _UNETS:
            raise AdapterError(f"the module names of {family!r} are not known here; known: {', '.join(_UNETS)}.")
        from diffusers import UNet2DConditionModel  # costs seconds

        with torch.device("meta"):
            unet = UNet2DConditionModel(
                cross_attention_dim=8, attention_head_dim=8, norm_num_groups=2, layers_per_block=2, **_UNETS[family]
            )
            encoders = [_encoder(layers, index) for index, layers in enumerate(_ENCODER_LAYERS[family])]
        names = ("text_encoder", "text_encoder_2")
        return cls(family, {"unet": unet, **dict(zip(names, encoders, strict=False))})

    def layer_paths(self) -> dict[LayerKey, tuple[str, str]]:
        """Every stem of this family -> (component, dotted path as diffusers and transformers write it in files)."""
        encoders = [module for name, module in self.components.items() if name != "unet"]
        table = LayerTable.from_model(self.components["unet"], encoders)
        found = {LayerKey("unet", name): ("unet", layer.path) for name, layer in table.unet.items()}
        parts = ("te1", "te2") if len(encoders) > 1 else ("te",)
        for part, component, names in zip(parts, ("text_encoder", "text_encoder_2"), table.text_encoders, strict=False):
            found |= {LayerKey(part, name): (component, with_text_model(layer.path)) for name, layer in names.items()}
        return found


def _encoder(layers: int, index: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=1, projection_dim=8)
    config.num_hidden_layers = layers
    encoder: nn.Module = CLIPTextModelWithProjection(config) if index else CLIPTextModel(config)
    return encoder
