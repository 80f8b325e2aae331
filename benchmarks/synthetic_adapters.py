"""Adapter files with random factors, shaped as the trainers do, and each one's ΔW written out the plain way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Shape

Leaves = Mapping[str, Tensor]
KRON = 8  # LoKr's factor
SIZE = 0.02  # of random factors


@dataclass(frozen=True)
class Recipe:
    """`make` draws the leaves of one layer; `delta` is ΔW at strength 1, float32, unscaled by alpha / rank = 1."""

    make: Callable[[Shape, int], Leaves]
    delta: Callable[[Tensor, Leaves], Tensor]
    where: str = "attention"  # or "all": convolutions too; or "norms"


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape) * SIZE


def _units(shape: Shape) -> tuple[int, ...]:
    return tuple(1 for _ in shape[2:])


def _lora(shape: Shape, rank: int) -> Leaves:
    leaves = {"lora_up.weight": _noise(shape[0], rank, *_units(shape)), "lora_down.weight": _noise(rank, *shape[1:])}
    return leaves | {"alpha": torch.tensor(float(rank))}


def _lora_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    up, down = leaves["lora_up.weight"], leaves["lora_down.weight"]
    return (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def _loha(shape: Shape, rank: int) -> Leaves:
    flat = math.prod(shape[1:])
    leaves = {f"hada_w{n}_a": _noise(shape[0], rank) * 5 for n in (1, 2)}
    leaves |= {f"hada_w{n}_b": _noise(rank, flat) * 5 for n in (1, 2)}
    return leaves | {"alpha": torch.tensor(float(rank))}


def _loha_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    first = leaves["hada_w1_a"] @ leaves["hada_w1_b"]
    return (first * (leaves["hada_w2_a"] @ leaves["hada_w2_b"])).reshape(weight.shape)


def _lokr(shape: Shape, rank: int) -> Leaves:
    """The second factor is whole where the rank would not make it smaller; then alpha is 1 / 1."""
    b, d = shape[0] // KRON, shape[1] // KRON
    leaves = {"lokr_w1": _noise(KRON, KRON) * 10, "alpha": torch.tensor(float(rank))}
    if rank >= max(b, d) / 2:
        return leaves | {"lokr_w2": _noise(b, d, *shape[2:])}
    return leaves | {"lokr_w2_a": _noise(b, rank), "lokr_w2_b": _noise(rank, d * math.prod(shape[2:]))}


def _lokr_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    w1 = leaves["lokr_w1"]
    w2 = leaves["lokr_w2"] if "lokr_w2" in leaves else leaves["lokr_w2_a"] @ leaves["lokr_w2_b"]
    shape = len(weight) // len(w1), weight.shape[1] // len(w1), *weight.shape[2:]
    return torch.kron(w1.view(*w1.shape, *_units(tuple(weight.shape))), w2.reshape(shape)).contiguous()


def _dora_rows(shape: Shape, rank: int) -> Leaves:
    return {**_lora(shape, rank), "dora_scale": torch.rand(shape[0], 1, *_units(shape)) + 0.5}


def _dora_columns(shape: Shape, rank: int) -> Leaves:
    return {**_lora(shape, rank), "dora_scale": torch.rand(1, shape[1], *_units(shape)) + 0.5}


def _dora_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    moved = weight + _lora_delta(weight, leaves)
    axis = 0 if leaves["dora_scale"].shape[0] > 1 else 1
    others = [n for n in range(weight.ndim) if n != axis]
    norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
    scaled: Tensor = moved * (leaves["dora_scale"] / norm)
    return scaled - weight


def _oft(shape: Shape, rank: int) -> Leaves:
    return {"oft_blocks": _noise(shape[0] // rank, rank, rank), "alpha": torch.tensor(0.0)}


def rotation(blocks: Tensor) -> Tensor:
    skew, eye = blocks - blocks.mT, torch.eye(blocks.shape[-1], device=blocks.device)
    rotation: Tensor = (eye + skew) @ torch.linalg.inv(eye - skew)
    return rotation


def _oft_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    turn = rotation(leaves["oft_blocks"])
    rows = weight.reshape(*turn.shape[:2], -1)
    return torch.einsum("kno,kni->koi", turn, rows).reshape(weight.shape) - weight


def _boft(shape: Shape, rank: int) -> Leaves:
    """The largest even block up to `rank` that leaves a power of two of blocks."""
    sizes = [b for b in range(2, rank + 1, 2) if shape[0] % b == 0 and (n := shape[0] // b) & (n - 1) == 0]
    count = shape[0] // max(sizes)
    return {"oft_blocks": _noise(count.bit_length(), count, max(sizes), max(sizes)), "alpha": torch.tensor(0.0)}


def _boft_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    """Rows are shuffled so that each factor's partners lie together, turned, and shuffled back."""
    out = weight.flatten(1)
    for i, turn in enumerate(rotation(leaves["oft_blocks"])):
        count, size, _ = turn.shape
        pairs = out.view(-1, 2, 2**i * size // 2, out.shape[1]).transpose(1, 2)
        turned = torch.bmm(turn, pairs.reshape(count, size, -1))
        out = turned.view(pairs.shape).transpose(1, 2).reshape(out.shape)
    return out.view(weight.shape) - weight


def _ia3(shape: Shape, rank: int) -> Leaves:
    vector = (shape[0],) if len(shape) == 2 else (1, shape[0], *_units(shape))
    return {"weight": _noise(*vector), "on_input": torch.tensor(0)}


def _glora(shape: Shape, rank: int) -> Leaves:
    units = _units(shape)
    leaves = {"a1.weight": _noise(shape[1], rank, *units), "a2.weight": _noise(rank, shape[1], *units)}
    leaves |= {"b1.weight": _noise(shape[0], rank, *units), "b2.weight": _noise(rank, shape[1], *units)}
    return leaves | {"alpha": torch.tensor(float(rank))}


def _glora_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    a1, a2, b1, b2 = (leaves[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    return (weight.flatten(1) @ (a1 @ a2) + b1 @ b2).view(weight.shape)


def _ia3_delta(weight: Tensor, leaves: Leaves) -> Tensor:
    return weight * leaves["weight"].view(-1, *(1 for _ in weight.shape[1:]))


RECIPES: Mapping[str, Recipe] = {
    "lora": Recipe(_lora, _lora_delta),
    "locon": Recipe(_lora, _lora_delta, "all"),
    "loha": Recipe(_loha, _loha_delta),
    "lokr": Recipe(_lokr, _lokr_delta),
    "dora-rows": Recipe(_dora_rows, _dora_delta),
    "dora-columns": Recipe(_dora_columns, _dora_delta),
    "oft": Recipe(_oft, _oft_delta),
    "boft": Recipe(_boft, _boft_delta),
    "ia3": Recipe(_ia3, _ia3_delta),
    "glora": Recipe(_glora, _glora_delta),
    "full": Recipe(lambda shape, rank: {"diff": _noise(*shape)}, lambda weight, leaves: leaves["diff"]),
    "norm": Recipe(lambda shape, rank: {"w_norm": _noise(*shape)}, lambda weight, leaves: leaves["w_norm"], "norms"),
}
