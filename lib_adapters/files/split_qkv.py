"""kohya's split form of a fused layer: `lora_down.N` and `lora_up.N` train separate rows of it.

Together they are one pair: the downs stacked, the ups on a diagonal (networks/lora_flux.py, split_dims). The trainer's
scale is alpha over the rank of one part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Shape
from lib_adapters.files.tensor_keys import is_index

Value = TypeVar("Value")

_MAX_PARTS = 4  # q, k, v and the MLP of Flux; a diagonal of many parts would be mostly zeros
_UP, _DOWN = "lora_up", "lora_down"


def joined_shapes(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Shapes as they will be once `join` has run; the same object where nothing is split."""
    ups, downs = _parts(shapes, _UP), _parts(shapes, _DOWN)
    if not _are_alike(ups, downs):
        return shapes
    rest = {
        tensor_name: shape
        for tensor_name, shape in shapes.items()
        if tensor_name not in ups and tensor_name not in downs
    }
    rank = sum(shape[0] for shape in downs.values())
    rows = sum(shape[0] for shape in ups.values())
    rest[f"{_UP}.weight"] = (rows, rank)
    rest[f"{_DOWN}.weight"] = (rank, *next(iter(downs.values()))[1:])
    return rest


def join_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Block-diagonal up, stacked down, and alpha times the number of parts; the same object where nothing is split."""
    ups, downs = _parts(tensors, _UP), _parts(tensors, _DOWN)
    if not _are_alike(
        *({tensor_name: tuple(part.shape) for tensor_name, part in parts.items()} for parts in (ups, downs))
    ):
        return tensors
    rest = {
        tensor_name: tensor
        for tensor_name, tensor in tensors.items()
        if tensor_name not in ups and tensor_name not in downs
    }
    rest[f"{_UP}.weight"] = _diagonal([up.flatten(1) for up in ups.values()])
    rest[f"{_DOWN}.weight"] = torch.cat(list(downs.values()))
    if "alpha" in rest:
        rest["alpha"] = rest["alpha"] * len(ups)
    return rest


def _are_alike(ups: Mapping[str, Shape], downs: Mapping[str, Shape]) -> bool:
    """Of one rank and one input, as trainers make them: so the diagonal is but a few times as large as its parts."""
    shapes = set(downs.values())
    if not 0 < len(ups) == len(downs) <= _MAX_PARTS or len(shapes) != 1:
        return False
    (shape,) = shapes
    return len(shape) > 1 and all(len(up) > 1 and math.prod(up[1:]) == shape[0] for up in ups.values())


def _diagonal(blocks: list[Tensor]) -> Tensor:
    rows, columns = sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)
    whole = blocks[0].new_zeros(rows, columns)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole


def _parts(leaves: Mapping[str, Value], kind: str) -> dict[str, Value]:
    """`kind.N.weight` in the order of N."""
    numbered = {tensor_name: tensor_name.split(".") for tensor_name in leaves if tensor_name.startswith(f"{kind}.")}
    found = sorted((int(tokens[1]), tensor_name) for tensor_name, tokens in numbered.items() if is_index(tokens[1]))
    return {tensor_name: leaves[tensor_name] for _, tensor_name in found}
