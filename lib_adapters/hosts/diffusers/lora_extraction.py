"""Extraction of one LoRA file from full weight changes, by truncated SVD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lib_adapters.hosts.diffusers.kohya_names import kohya_name
from lib_adapters.hosts.diffusers.weight_diff import ParameterDiff

OVERSAMPLING = 16  # extra columns that make the randomised decomposition accurate
MAX_FULL_SVD = 256


@dataclass
class ExtractedLora:
    """The file's tensors, and what the cut to `rank` lost."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    squared_norm: float = 0.0  # ‖ΔW‖² over all layers
    squared_error: float = 0.0  # ‖ΔW - kept‖² over all layers
    worst_layer: tuple[float, str] = (0.0, "")

    @property
    def relative_error(self) -> float:
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0

    def record_error(self, name: str, delta: Tensor, kept: Tensor) -> None:
        square, lost = float(delta.double().square().sum()), float((delta - kept).double().square().sum())
        self.squared_norm += square
        self.squared_error += lost
        self.worst_layer = max(self.worst_layer, (math.sqrt(lost / square) if square else 0.0, name))


def extract_lora(
    diffs: Iterable[ParameterDiff],
    components: dict[str, nn.Module],
    rank: int,
    dtype: torch.dtype,
    on_progress: Callable[[int], None],
) -> ExtractedLora:
    """Linear and convolution weights become pairs; biases, norms and embeddings are kept whole (`diff`)."""
    result = ExtractedLora()
    for number, transaction in enumerate(diffs, 1):
        path, _, tensor_name = transaction.path.rpartition(".")
        module = components[transaction.component].get_submodule(path)
        name = kohya_name(transaction.component, path or tensor_name, components)
        if isinstance(module, nn.Linear | nn.Conv2d) and tensor_name == "weight":
            _pair(result, name, transaction.delta, rank, dtype)
        else:
            _whole(result, f"{name}.{_leaf(module, tensor_name)}", transaction.delta, dtype)
        on_progress(number)
    return result


def _pair(result: ExtractedLora, name: str, delta: Tensor, rank: int, dtype: torch.dtype) -> None:
    up, down = truncated_svd(delta.flatten(1), rank)
    up, down = up.to(dtype), down.to(dtype)
    result.record_error(name, delta.flatten(1), up.float() @ down.float())
    ones = (1,) * (delta.ndim - 2)
    result.tensors[f"{name}.lora_up.weight"] = up.reshape(*up.shape, *ones).contiguous()
    result.tensors[f"{name}.lora_down.weight"] = down.reshape(len(down), *delta.shape[1:]).contiguous()
    result.tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))


def _whole(result: ExtractedLora, key: str, delta: Tensor, dtype: torch.dtype) -> None:
    kept = delta.to(dtype)
    result.record_error(key, delta, kept.float())
    result.tensors[key] = kept.contiguous()


def _leaf(module: nn.Module, tensor_name: str) -> str:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return "b_norm" if tensor_name == "bias" else "w_norm"
    return "diff_b" if tensor_name == "bias" else "diff"


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best up [o, r] @ down [r, i] there is, the singular values shared evenly so that half precision suffices."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(MAX_FULL_SVD, 2 * (rank + OVERSAMPLING)):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, values, right = torch.svd_lowrank(matrix, rank + OVERSAMPLING, niter=4)
        right = right.T
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
