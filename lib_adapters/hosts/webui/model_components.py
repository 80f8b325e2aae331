"""The UNet and the text encoders of the web UI's model, for every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lib_adapters.patching.layers import LayerTable


@dataclass(frozen=True)
class CheckpointComponents:
    unet: nn.Module | None
    text_encoders: tuple[nn.Module, ...]


def components_of(model: nn.Module) -> CheckpointComponents:
    """Found by looking. The text side's outer wrappers are new after each hijack; what is inside them stays."""
    denoiser = getattr(getattr(model, "model", None), "diffusion_model", None)
    unet = denoiser if isinstance(denoiser, nn.Module) else None
    return CheckpointComponents(unet, tuple(_towers(model)))


def family_of(model: nn.Module) -> str:
    """ "" where it cannot be told."""
    parts = components_of(model)
    if parts.unet is None:
        return ""
    family = LayerTable.from_model(parts.unet, parts.text_encoders).family
    return "" if family == "unknown" else family


def is_dropped(model: nn.Module) -> bool:
    """The host throws a model away by sending its weights to nowhere."""
    return any(parameter.is_meta for parameter in model.parameters())


def embedders_of(model: nn.Module) -> list[Any]:
    """The host's own wrappers around CLIP, as it calls them for a prompt; new after each hijack."""
    embedders = getattr(getattr(model, "conditioner", None), "embedders", None)
    found = list(embedders) if embedders else [getattr(model, "cond_stage_model", None)]
    return [one for one in found if hasattr(one, "encode_with_transformers") and _tower(one) is not None]


def text_encoder_of(embedder: object) -> nn.Module:
    tower = _tower(embedder)
    assert tower is not None
    return tower


def _towers(model: nn.Module) -> list[nn.Module]:
    conditioner = getattr(model, "conditioner", None)
    if embedders := getattr(conditioner, "embedders", None):  # SDXL
        return [tower for embedder in embedders if (tower := _tower(embedder)) is not None]
    text = getattr(model, "text_encoders", None)
    if text is not None:  # SD 3
        encoders = [getattr(text, name, None) for name in ("clip_l", "clip_g", "t5xxl")]
        return [tower for encoder in encoders if (tower := _tower(encoder)) is not None]
    stage = getattr(model, "cond_stage_model", None)
    tower = _tower(stage)
    whole = getattr(stage, "wrapped", stage)
    return [tower] if tower is not None else [whole] if isinstance(whole, nn.Module) else []


def _tower(embedder: object) -> nn.Module | None:
    """Hugging Face's CLIP is `.transformer`, OpenCLIP's is `.model`; a size embedder has neither."""
    inner = getattr(embedder, "wrapped", embedder)
    for name in ("transformer", "model"):
        tower = getattr(inner, name, None)
        if isinstance(tower, nn.Module):
            return tower
    return None
