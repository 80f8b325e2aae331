"""CLIP text features: the pooled, projected output of a text encoder, and the projection it needs.

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
from lib_adapters.files.container import open_tensor_file
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.files.torch_pickle.torchscript import read_torchscript_tensor
from lib_adapters.ops.torch_modes import plain_tensors

TEXT_PROJECTION = "text_projection"
_KEY_PREFIXES = ("", "text_encoders.clip_l.transformer.")  # the second: in Stable Diffusion 3 checkpoints with encoders
_MODEL_FILES = (
    "model.safetensors", "model.fp16.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "clip_l.safetensors", "ViT-L-14.pt", "open_clip_pytorch_model.bin", "pytorch_model.bin",
)  # fmt: skip


def text_feature(hidden_states: Tensor, input_ids: Tensor, eos_token_id: int, projection: Tensor) -> Tensor:
    """[n, l, w], [n, l], [d, w] -> [n, d]: the state at the first end token, projected; not normalised.

    By the token's number, because CLIP's own rule (the highest number) fails where a prompt has added words.
    """
    at = (input_ids == eos_token_id).int().argmax(dim=1)
    rows = torch.arange(len(input_ids), device=hidden_states.device)
    return hidden_states[rows, at.to(hidden_states.device)] @ projection.to(hidden_states, copy=True).T


def clip_feature(
    text_encoder: nn.Module,
    projection: Tensor,
    input_ids: Tensor,
    eos_token_id: int,
    extra_inputs: Mapping[str, Any] | None = None,
) -> Tensor:
    """[n, l] -> [n, d]: transformers' CLIPTextModel, with or without a projection of its own."""
    states = text_encoder.forward(input_ids=_usable(input_ids), **(extra_inputs or {})).last_hidden_state
    return text_feature(states, input_ids, eos_token_id, projection)


def open_clip_feature(text_encoder: nn.Module, input_ids: Tensor) -> Tensor:
    """[n, l] -> [n, d]: OpenCLIP's text tower, or a whole OpenCLIP model; both project by themselves."""
    encode = getattr(text_encoder, "encode_text", None) or text_encoder.forward
    found = encode(_usable(input_ids))
    feature: Tensor = found[0] if isinstance(found, tuple) else found
    return feature


def _usable(tokens: Tensor) -> Tensor:
    """Autograd cannot keep what a host made in its inference mode."""
    return tokens.clone() if tokens.is_inference() else tokens


def text_projection(text_encoder: nn.Module) -> Tensor | None:
    """[d, w] of a tower that has one, else None."""
    held = getattr(text_encoder, TEXT_PROJECTION, None)
    if isinstance(held, nn.Linear):
        return held.weight.detach()
    return held.detach().T if isinstance(held, Tensor) else None


@plain_tensors()
def load_text_projection(path: Path) -> Tensor:
    """Return the text projection [d, w] of a CLIP model in a local folder or file.

    Supports files of transformers, OpenCLIP, OpenAI and Stability; reads nothing else. Raise InvalidModelFolder if
    there is none.
    """
    if not path.exists():
        raise InvalidModelFolder(f"{path}: this CLIP folder or file does not exist.")
    there = [path] if path.is_file() else [path / name for name in _MODEL_FILES if (path / name).is_file()]
    for file in there:
        try:
            if (found := _projection_of(file)) is not None:
                return found
        except AdapterError as error:
            raise InvalidModelFolder(f"{path.parent if path.is_file() else path}: {file.name}: {error}") from error
    where = "contains no CLIP text projection"
    if path.is_dir():
        expected = f"{_MODEL_FILES[0]} or {_MODEL_FILES[-1]}"
        where = f"contains no CLIP model with a text projection (expected in {expected}, for example)"
    raise InvalidModelFolder(f"{path}: {where}.")


def _projection_of(file: Path) -> Tensor | None:
    """Return the projection as [d, w]: a linear layer's weight has this shape, a bare parameter is [w, d]."""
    if file.suffix.lower() == ".pt" and (scripted := read_torchscript_tensor(file, TEXT_PROJECTION)) is not None:
        return scripted.T
    source = open_tensor_file(file)
    for key in (f"{prefix}{TEXT_PROJECTION}{end}" for prefix in _KEY_PREFIXES for end in (".weight", "")):
        if key in source.entries:
            one = replace(source, entries={key: source.entries[key]})
            found = tensor_view(*read_tensor_bytes(one), one.entries[key]).clone()
            return found if key.endswith("weight") else found.T
    return None
