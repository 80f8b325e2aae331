"""The image encoder of a CLIP model in a local folder: images to features [n, d]."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lib_adapters.errors import InvalidModelFolder

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own


@dataclass(frozen=True)
class ClipImageEncoder:
    model: nn.Module
    shortest_edge: int  # what a picture's shorter edge is brought to
    crop_size: tuple[int, int]  # height and width of what the model sees of it
    mean: Tensor  # [3, 1, 1]
    std: Tensor

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, d] on the CPU, not normalised."""
        device = next(self.model.parameters()).device
        pixels = torch.stack([self.preprocess(image) for image in images]).to(device)
        features: Tensor = self.model(pixel_values=pixels).image_embeds
        return features.float().cpu()

    def preprocess(self, image: Image.Image) -> Tensor:
        """[3, h, w], as CLIP's image processor makes them; that one comes in two kinds, which differ slightly."""
        width, height = image.size
        share = self.shortest_edge / min(width, height)
        wide = (
            (self.shortest_edge, int(height * share)) if width <= height else (int(width * share), self.shortest_edge)
        )
        resized = np.asarray(image.convert("RGB").resize(wide, Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
        top, left = ((have - want) // 2 for have, want in zip(pixels.shape[1:], self.crop_size, strict=True))
        return (pixels[:, top : top + self.crop_size[0], left : left + self.crop_size[1]] - self.mean) / self.std


def load_image_encoder(folder: Path, device: torch.device) -> ClipImageEncoder:
    """A CLIP model, or its image side alone; InvalidModelFolder says what is missing. Nothing is fetched."""
    if not (folder / "config.json").is_file():
        raise InvalidModelFolder(
            f"{folder}: there is no CLIP model with its image side in this folder (no config.json); name the folder of "
            "a local one, such as openai/clip-vit-large-patch14."
        )
    model = _loaded(folder).eval().to(device, torch.float32)
    given = read_json(folder / "preprocessor_config.json")
    config: Any = model.config
    size = int(config.image_size)
    side, crop = given.get("size", size), given.get("crop_size", size)
    height, width = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
    side = side.get("shortest_edge") or min(side.values()) if isinstance(side, dict) else side
    mean, std = (torch.tensor(given.get(key, own)) for key, own in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)))
    side = max(int(side), height, width)  # a smaller picture could not be cropped
    return ClipImageEncoder(model, side, (height, width), mean.reshape(3, 1, 1), std.reshape(3, 1, 1))


def _loaded(folder: Path) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # costs seconds
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list every weight of the text side as unused
    try:
        model, found = CLIPVisionModelWithProjection.from_pretrained(
            str(folder), config=CLIPVisionConfig(**_sizes(folder)), local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidModelFolder(
            f"{folder}: transformers cannot load a CLIP model from this folder ({reason})."
        ) from error
    finally:
        logging.set_verbosity(before)
    missing = [key for key in found["missing_keys"] if not key.endswith("position_ids")]
    if missing:
        raise InvalidModelFolder(f"{folder}: this CLIP model has no image side ({sorted(missing)[0]} is missing).")
    loaded: nn.Module = model
    return loaded


def _sizes(folder: Path) -> dict[str, Any]:
    """A whole model's settings have the image side's inside, but the width of the common space only outside."""
    whole = read_json(folder / "config.json")
    if "vision_config" not in whole:
        return whole
    inside = dict(whole["vision_config"] or {})
    return {**inside, "projection_dim": whole.get("projection_dim", inside.get("projection_dim", 512))}


def read_json(file: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise InvalidModelFolder(f"{file.parent}: its {file.name} cannot be read ({error}).") from error
