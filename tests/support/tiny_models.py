"""Real model classes at a fraction of their width: the structure is the real one, so names and depths are too."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

WIDTH = 32
CONTEXT = 24


Build = Callable[..., nn.Module]


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def copied(build: Build) -> Build:
    """Build each model once and return copies of it, because building takes longer; random numbers go on alike."""
    built: dict[str, tuple[nn.Module, torch.Tensor]] = {}

    @wraps(build)
    def copy_of(**options: object) -> nn.Module:
        if torch.is_inference_mode_enabled():
            return build(**options)
        key = repr(sorted(options.items()))
        if key not in built:
            built[key] = build(**options), torch.get_rng_state()
        model, state = built[key]
        torch.set_rng_state(state)
        return copy.deepcopy(model)

    return copy_of


@copied
def ldm_unet(*, in_channels: int = 4, linear: bool = False, context: int = CONTEXT, **changes: object) -> nn.Module:
    """The UNet class that the web UI runs, with Stable Diffusion 1's blocks (2's with `linear`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet_class = importlib.import_module("ldm.modules.diffusionmodules.openaimodel").UNetModel
    seeded()
    settings = {
        "image_size": 8,
        "in_channels": in_channels,
        "out_channels": 4,
        "model_channels": WIDTH,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "num_heads": 2,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": linear,
        "transformer_depth": 1,
        "context_dim": context,
        "use_checkpoint": False,
        "legacy": False,
    }
    return _filled(unet_class(**{**settings, **changes}))


def diffusers_unet(*, family: str = "sd1", context: int = CONTEXT, **changes: object) -> nn.Module:
    from diffusers import UNet2DConditionModel

    seeded()
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    up_cross, up_plain = "CrossAttnUpBlock2D", "UpBlock2D"
    shared = {
        "sample_size": 8,
        "layers_per_block": 2,
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    kinds = {
        "sd1": {
            "block_out_channels": (32, 64, 128, 128),
            "down_block_types": (cross, cross, cross, plain),
            "up_block_types": (up_plain, up_cross, up_cross, up_cross),
        },
        "sdxl": {
            "block_out_channels": (32, 64, 128),
            "down_block_types": (plain, cross, cross),
            "up_block_types": (up_cross, up_cross, up_plain),
            "transformer_layers_per_block": (1, 2, 3),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        },
        "sdxl-refiner": {
            "block_out_channels": (32, 64, 128, 128),
            "down_block_types": (plain, cross, cross, plain),
            "up_block_types": (up_plain, up_cross, up_cross, up_plain),
            "transformer_layers_per_block": 2,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        },
    }
    kinds["sd2"] = {**kinds["sd1"], "use_linear_projection": True}
    return _filled(UNet2DConditionModel(**{**shared, **kinds[family], **changes}))


@copied
def clip(*, width: int = CONTEXT, layers: int = 12, projection: bool = False, **changes: object) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    seeded()
    settings = {
        "vocab_size": 99,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "bos_token_id": 97,
        "eos_token_id": 98,
        "pad_token_id": 98,
    }
    config = CLIPTextConfig(**{**settings, **changes})
    return _filled((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def open_clip(*, width: int = CONTEXT, layers: int = 24) -> nn.Module:
    """OpenCLIP's own text tower: q, k and v are one matrix, text_projection is a bare parameter."""
    seeded()
    tower = _open_clip_transformer().TextTransformer(
        context_length=16, vocab_size=99, width=width, heads=2, layers=layers, output_dim=16
    )
    return _filled(tower)


@cache
def _open_clip_transformer() -> types.ModuleType:
    """open_clip imports torchvision for its image side; its text tower needs only torch."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    package = types.ModuleType("open_clip")
    package.__path__ = [str(Path(spec.origin).parent)]
    misc = types.ModuleType("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = nn.BatchNorm2d  # type: ignore[attr-defined]
    stand_ins = {"open_clip": package, "torchvision.ops.misc": misc}
    stand_ins |= {name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops")}
    with patch.dict(sys.modules, stand_ins):
        return importlib.import_module("open_clip.transformer")


def _filled(model: nn.Module) -> nn.Module:
    """Stable Diffusion's zero-initialised layers get values: a test must see each layer's effect."""
    seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return model.eval().requires_grad_(False)
