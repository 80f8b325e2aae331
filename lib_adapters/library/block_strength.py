"""How strongly a file changes each block, as far as the file alone tells.

Strength is the Frobenius norm of ΔW at strength 1. Algorithms that turn or scale the weight itself (OFT, IA3, DoRA,
GLoRA ...) have none without the model; their layers are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm, LowRankFactors, Shape
from lib_adapters.algorithms.full import Full
from lib_adapters.errors import AestheticFile, HypernetworkFile, ShapeMismatch
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.files.blocks import block_label, family_blocks, sort_blocks

MAX_WEIGHT_SIZE = 1 << 27  # numbers; no layer has as many, and thin factors of a small file can ask for any


@dataclass
class BlockNorm:
    """`strength` is the norm over all layers whose own norm is known."""

    layers: int = 0
    unknown: int = 0  # layers whose strength only the model can tell
    sum_of_squares: float = 0.0

    @property
    def strength(self) -> float:
        """‖ΔW‖ of all those layers together."""
        return math.sqrt(self.sum_of_squares)

    @property
    def known_strength(self) -> float | None:
        """None where only the model can tell."""
        return self.strength if self.unknown < self.layers or not self.layers else None


def strength_rows(path: Path) -> list[dict[str, Any]]:
    """What a block chart shows; a hypernetwork and an aesthetic embedding have no blocks."""
    try:
        adapter = open_adapter(path)
    except (HypernetworkFile, AestheticFile):
        return []
    found = block_norms(adapter).items()
    return [{"block": name, "layers": block.layers, "strength": _finite(block.known_strength)} for name, block in found]


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def block_norms(adapter: Adapter) -> dict[str, BlockNorm]:
    """Every block of the family, touched or not, in the order in which a picture passes through them."""
    loaded = adapter.load()
    found: dict[str, BlockNorm] = {name: BlockNorm() for name in family_blocks(adapter.family)}
    for module in adapter.layers:
        algorithm = loaded.algorithms.get(module.key)
        if algorithm is not None:
            block = found.setdefault(block_label(module.key), BlockNorm())
            norm = _norm(algorithm, _weight_shape(module.shapes))
            block.layers += 1
            block.unknown += norm is None
            block.sum_of_squares += (norm or 0.0) ** 2
    return {name: found[name] for name in sort_blocks(set(found))}


def _norm(algorithm: Algorithm, shape: Shape | None) -> float | None:
    if isinstance(algorithm, Full):
        return tensor_norm(algorithm.weight) if algorithm.weight is not None else tensor_norm(algorithm.bias)
    if shape is None or algorithm.needs_weight or math.prod(shape) > MAX_WEIGHT_SIZE:
        return None
    base = torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)
    try:
        algorithm.check_shape(shape)
        pair = algorithm.as_low_rank(base)
        return _of_product(pair) if pair else tensor_norm(algorithm.delta(base))
    except ShapeMismatch:
        return None


def tensor_norm(tensor: Tensor | None) -> float:
    """Frobenius norm; 0 for none."""
    return 0.0 if tensor is None else float(tensor.float().norm())


def _of_product(pair: LowRankFactors) -> float:
    """‖up @ down‖² = Σ (upᵀup ⊙ down downᵀ): two r x r products instead of an o x i one, where those are smaller."""
    up, down = pair.up.double(), pair.down.double()
    if up.shape[1] ** 2 > up.shape[0] * down.shape[1]:
        return abs(pair.scale) * float((up @ down).norm())
    return abs(pair.scale) * math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T)).sum())))


def _weight_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """The weight these factors were trained for: [o, i, ...kernel]; None where they do not show it."""
    for up, down, core in (
        ("lora_up.weight", "lora_down.weight", "lora_mid.weight"),
        ("lora_up1.weight", "lora_down1.weight", ""),
        ("hada_w1_a", "hada_w1_b", "hada_t1"),
        ("delora_B", "delora_A", ""),
    ):
        if up in shapes and down in shapes:
            if core not in shapes:
                return (shapes[up][0], *shapes[down][1:])
            rows = shapes[up][1] if core == "hada_t1" else shapes[up][0]
            return (rows, shapes[down][1], *shapes[core][2:])
    return _kronecker_shape(shapes) or _blocks_shape(shapes)


def _blocks_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """C3A's kernel is [rows/b, columns/b, b]; GraLoRA's factors are [k, columns/k, r] and [k, r, rows/k]."""
    kernel, down, up = (shapes.get(tensor_name, ()) for tensor_name in ("c3a_kernel", "gralora_A", "gralora_B"))
    if len(kernel) == 3:
        return (kernel[0] * kernel[2], kernel[1] * kernel[2])
    return (up[0] * up[2], down[0] * down[1]) if len(down) == len(up) == 3 else None


def _kronecker_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """o = a·b, i = c·d for w1 [a, c] and w2 [b, d, ...]; with a core, w2_a is [r, b]."""
    first = shapes.get("lokr_w1") or _pair(shapes, "lokr_w1", "")
    second = shapes.get("lokr_w2") or _pair(shapes, "lokr_w2", "lokr_t2")
    if not first or not second:
        return None
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _pair(shapes: Mapping[str, Shape], name: str, core: str) -> Shape | None:
    up, down = shapes.get(f"{name}_a"), shapes.get(f"{name}_b")
    if up is None or down is None:
        return None
    return (up[1], down[1], *shapes[core][2:]) if core in shapes else (up[0], *down[1:])
