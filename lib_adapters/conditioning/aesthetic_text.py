"""A text as CLIP feels it: the feature that images are compared with, from any text tower, and its projection.

What runs is `tower.forward`, not the tower itself: hooks on the root belong to hosts and to whoever guards its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_adapters.errors import AdapterError, InvalidModelFolder
from lib_adapters.files.load import read_blob, view
from lib_adapters.files.source import open_source
from lib_adapters.files.torchscript import torchscript_tensor
from lib_adapters.ops.torch_modes import plain_tensors

PROJECTION = "text_projection"
_PREFIXES = ("", "text_encoders.clip_l.transformer.")  # the second: in Stable Diffusion 3 checkpoints with encoders
_FILES = (
    "model.safetensors", "model.fp16.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "clip_l.safetensors", "ViT-L-14.pt", "open_clip_pytorch_model.bin", "pytorch_model.bin",
)  # fmt: skip


def text_feature(states: Tensor, tokens: Tensor, end: int, projection: Tensor) -> Tensor:
    """[n, l, w], [n, l], [d, w] -> [n, d]: the state at the first end token, projected; not normalised.

    By the token's number, because CLIP's own rule (the highest number) fails where a prompt has added words.
    """
    at = (tokens == end).int().argmax(dim=1)
    rows = torch.arange(len(tokens), device=states.device)
    return states[rows, at.to(states.device)] @ projection.to(states, copy=True).T


def clip_feature(
    tower: nn.Module, projection: Tensor, tokens: Tensor, end: int, others: Mapping[str, Any] | None = None
) -> Tensor:
    """[n, l] -> [n, d]: transformers' CLIPTextModel, with or without a projection of its own."""
    states = tower.forward(input_ids=_usable(tokens), **(others or {})).last_hidden_state
    return text_feature(states, tokens, end, projection)


def open_clip_feature(tower: nn.Module, tokens: Tensor) -> Tensor:
    """[n, l] -> [n, d]: OpenCLIP's text tower, or a whole OpenCLIP model; both project by themselves."""
    encode = getattr(tower, "encode_text", None) or tower.forward
    found = encode(_usable(tokens))
    feature: Tensor = found[0] if isinstance(found, tuple) else found
    return feature


def _usable(tokens: Tensor) -> Tensor:
    """Autograd cannot keep what a host made in its inference mode."""
    return tokens.clone() if tokens.is_inference() else tokens


def own_projection(tower: nn.Module) -> Tensor | None:
    """[d, w] of a tower that has one, else None."""
    held = getattr(tower, PROJECTION, None)
    if isinstance(held, nn.Linear):
        return held.weight.detach()
    return held.detach().T if isinstance(held, Tensor) else None


@plain_tensors()
def projection_in(place: Path) -> Tensor:
    """Return the text projection [d, w] of a CLIP model in a local folder or file.

    Supports files of transformers, OpenCLIP, OpenAI and Stability; reads nothing else. Raise InvalidModelFolder if
    there is none.
    """
    if not place.exists():
        raise InvalidModelFolder(f"{place}: this CLIP folder or file does not exist.")
    there = [place] if place.is_file() else [place / name for name in _FILES if (place / name).is_file()]
    for file in there:
        try:
            if (found := _projection_of(file)) is not None:
                return found
        except AdapterError as error:
            raise InvalidModelFolder(f"{place.parent if place.is_file() else place}: {file.name}: {error}") from error
    where = "contains no CLIP text projection"
    if place.is_dir():
        where = f"contains no CLIP model with a text projection (expected in {_FILES[0]} or {_FILES[-1]}, for example)"
    raise InvalidModelFolder(f"{place}: {where}.")


def _projection_of(file: Path) -> Tensor | None:
    """Return the projection as [d, w]: a linear layer's weight has this shape, a bare parameter is [w, d]."""
    if file.suffix.lower() == ".pt" and (scripted := torchscript_tensor(file, PROJECTION)) is not None:
        return scripted.T
    source = open_source(file)
    for key in (f"{prefix}{PROJECTION}{end}" for prefix in _PREFIXES for end in (".weight", "")):
        if key in source.entries:
            one = replace(source, entries={key: source.entries[key]})
            found = view(*read_blob(one), one.entries[key]).clone()
            return found if key.endswith("weight") else found.T
    return None
