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

from lib_adapters.errors import AdapterError, BrokenModel
from lib_adapters.files.load import read_blob, view
from lib_adapters.files.source import open_source
from lib_adapters.ops.modes import ordinary

PROJECTION = "text_projection"
_FILES = ("model.safetensors", "model.fp16.safetensors", "open_clip_pytorch_model.safetensors", "pytorch_model.bin")


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


@ordinary()
def projection_in(folder: Path) -> Tensor:
    """[d, w] of a CLIP model in a local folder, as transformers or OpenCLIP save it; nothing else of it is read.

    BrokenModel where none is there.
    """
    if not folder.is_dir():
        raise BrokenModel(f"{folder}: there is no such folder of a CLIP model.")
    there = [folder / name for name in _FILES if (folder / name).is_file()]
    try:
        for file in there:
            source = open_source(file)
            for key in (f"{PROJECTION}.weight", PROJECTION):
                if key in source.entries:
                    one = replace(source, entries={key: source.entries[key]})
                    found = view(*read_blob(one), one.entries[key]).clone()
                    return found if key.endswith("weight") else found.T
    except AdapterError as error:
        raise BrokenModel(f"{folder}: {there[0].name}: {error}") from error
    raise BrokenModel(
        f"{folder}: no CLIP model with a text projection is in it (it would be in {_FILES[0]} or {_FILES[-1]})."
    )
