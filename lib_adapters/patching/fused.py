"""Fused attention projections: diffusers' `fuse_qkv_projections` copies q, k and v into one matrix.

The separate layers stay in the model, and the attention processor decides which of the two runs. An adapter of a
separate layer is therefore applied to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib_adapters.patching.layers import Layer

FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}


def with_fused_copies(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return the layers by path, each with the rows of a fused layer that duplicate it as `copies`."""
    found = dict(layers)
    for path, whole in layers.items():
        stem, dot, tensor_name = path.rpartition(".")
        parts = [f"{stem}{dot}{name}" for name in FUSED.get(tensor_name, ())]
        if parts and all(part in layers for part in parts):
            _add_fused_rows(found, parts, whole)
    return found


def _add_fused_rows(found: dict[str, Layer], parts: list[str], whole: Layer) -> None:
    shapes = [found[part].shape for part in parts]
    if sum(shape[0] for shape in shapes) != whole.shape[0] or any(s[1:] != whole.shape[1:] for s in shapes):
        return
    start = 0
    for part, shape in zip(parts, shapes, strict=True):
        layer, end = found[part], start + shape[0]
        copy = replace(whole, path=f"{whole.path}[{start}:{end}]", view=replace(whole.view, rows=(start, end)))
        found[part] = replace(layer, fused_copies=(*layer.fused_copies, copy))
        start = end
