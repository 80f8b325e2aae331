"""Changes of whole weights -> one file in LoRA format: each ΔW cut to its largest singular components."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lib_adapters.hosts.pipeline.changes import Change
from lib_adapters.hosts.pipeline.names import kohya_name

SPARE = 16  # extra columns that make the randomised decomposition accurate
EXACT_BELOW = 256


@dataclass
class Extract:
    """The file's tensors, and what the cut to `rank` lost."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    squares: float = 0.0  # ‖ΔW‖² over all layers
    lost: float = 0.0  # ‖ΔW - kept‖² over all layers
    worst: tuple[float, str] = (0.0, "")

    @property
    def error(self) -> float:
        return math.sqrt(self.lost / self.squares) if self.squares else 0.0

    def note(self, name: str, delta: Tensor, kept: Tensor) -> None:
        square, lost = float(delta.double().square().sum()), float((delta - kept).double().square().sum())
        self.squares += square
        self.lost += lost
        self.worst = max(self.worst, (math.sqrt(lost / square) if square else 0.0, name))


def extract(
    found: Iterable[Change], roots: dict[str, nn.Module], rank: int, dtype: torch.dtype, reached: Callable[[int], None]
) -> Extract:
    """Linear and convolution weights become pairs; biases, norms and embeddings are kept whole (`diff`)."""
    result = Extract()
    for number, change in enumerate(found, 1):
        path, _, leaf = change.path.rpartition(".")
        module = roots[change.component].get_submodule(path)
        name = kohya_name(change.component, path or leaf, roots)
        if isinstance(module, nn.Linear | nn.Conv2d) and leaf == "weight":
            _pair(result, name, change.delta, rank, dtype)
        else:
            _whole(result, f"{name}.{_leaf(module, leaf)}", change.delta, dtype)
        reached(number)
    return result


def _pair(result: Extract, name: str, delta: Tensor, rank: int, dtype: torch.dtype) -> None:
    up, down = cut(delta.flatten(1), rank)
    up, down = up.to(dtype), down.to(dtype)
    result.note(name, delta.flatten(1), up.float() @ down.float())
    ones = (1,) * (delta.ndim - 2)
    result.tensors[f"{name}.lora_up.weight"] = up.reshape(*up.shape, *ones).contiguous()
    result.tensors[f"{name}.lora_down.weight"] = down.reshape(len(down), *delta.shape[1:]).contiguous()
    result.tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))


def _whole(result: Extract, key: str, delta: Tensor, dtype: torch.dtype) -> None:
    kept = delta.to(dtype)
    result.note(key, delta, kept.float())
    result.tensors[key] = kept.contiguous()


def _leaf(module: nn.Module, leaf: str) -> str:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return "b_norm" if leaf == "bias" else "w_norm"
    return "diff_b" if leaf == "bias" else "diff"


def cut(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best up [o, r] @ down [r, i] there is, the singular values shared evenly so that half precision suffices."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(EXACT_BELOW, 2 * (rank + SPARE)):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, values, right = torch.svd_lowrank(matrix, rank + SPARE, niter=4)
        right = right.T
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
