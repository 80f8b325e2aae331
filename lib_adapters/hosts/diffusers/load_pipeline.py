"""Loading of a diffusers folder as a pipeline with a Session.

Nothing is fetched: a name that is no folder on this machine is an error, not a download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import nn

from lib_adapters.errors import InvalidModelFolder
from lib_adapters.session import Session

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPTIONAL_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class PipelineOutput(Protocol):
    images: list[Image]


class Pipeline(Protocol):
    """What is used of diffusers' pipelines, whichever class a folder names."""

    unet: nn.Module
    scheduler: object
    _execution_device: torch.device

    def __call__(self, prompt: str | None, **settings: object) -> PipelineOutput: ...
    def encode_prompt(self, prompt: str, **settings: object) -> tuple[torch.Tensor | None, ...]: ...


def open_pipeline(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> Pipeline:
    """The folder's pipeline on `device`: float32 on a CPU, float16 elsewhere, unless told."""
    index = read_model_index(folder)
    from diffusers import DiffusionPipeline  # costs seconds, and most commands need no model

    try:
        pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **_options(folder, index))
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidModelFolder(
            f"{folder}: diffusers cannot load this folder ({type(error).__name__}: {reason})."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    moved: Pipeline = pipe.to(device, dtype or (torch.float32 if device.type == "cpu" else torch.float16))
    return moved


def create_session(pipe: Pipeline) -> Session:
    unet, *encoders = components_of(pipe).values()
    return Session(unet=unet, text_encoders=encoders)


def components_of(pipe: Pipeline) -> dict[str, nn.Module]:
    """What adapters change, under the pipeline's own names, the UNet first."""
    found = {name: getattr(pipe, name, None) for name in ("unet", *TEXT_ENCODERS)}
    return {name: module for name, module in found.items() if module is not None}


def read_model_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`, checked for being Stable Diffusion's."""
    if not folder.is_dir():
        raise InvalidModelFolder(
            f"{folder}: there is no such folder; --model takes a Stable Diffusion folder as diffusers saves it."
        )
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModelFolder(
            f"{folder}: no model_index.json in it, so this is no diffusers model folder."
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidModelFolder(f"{folder}: its model_index.json cannot be read ({error}).") from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str) or "unet" not in index:
        raise InvalidModelFolder(
            f"{folder}: {name or 'this'} is no Stable Diffusion 1, 2 or XL pipeline (it has no UNet)."
        )
    for part in _missing(folder, index):
        if part not in OPTIONAL_COMPONENTS:
            raise InvalidModelFolder(f"{folder}: the folder {part!r} that its model_index.json names is missing.")
    return dict(index)


def _missing(folder: Path, index: dict[str, Any]) -> list[str]:
    """Components that the index names, `["diffusers", "UNet2DConditionModel"]`, and that are not there."""
    named = [part for part, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[0]]
    return [part for part in named if not (folder / part).is_dir()]


def _options(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {part: None for part in _missing(folder, index)}
    if "safety_checker" in options:
        options["requires_safety_checker"] = False
    names = {path.name for path in (folder / "unet").iterdir()}
    if not any(name.startswith("diffusion_pytorch_model.") and ".fp16." not in name for name in names):
        options |= {"variant": "fp16"}
    return options
