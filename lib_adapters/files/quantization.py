"""Tensors quantised to 8 bits with the scale in a separate tensor: value = stored number · scale.

ComfyUI writes `X.scale_weight`, compressed-tensors and diffusers `X.weight_scale`, others `X.scale`, for the tensor
`X.weight` or `X`. The scale is per tensor, per row, or per block of a grid over [rows, columns].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from lib_adapters.errors import ShapeMismatch
from lib_adapters.files.tensor_keys import split_key

_SCALE_SUFFIXES = (".scale_weight", ".weight_scale", ".scale")
QUANTIZED_DTYPES = frozenset({"I8", "F8_E4M3", "F8_E5M2"})  # dtypes that may have a scale


def match_scale_keys(keys: Collection[str]) -> dict[str, str]:
    """Return {key of a tensor: key of its scale} for every scale whose tensor is in the file."""
    found: dict[str, str] = {}
    known = keys if isinstance(keys, (set, frozenset, dict)) else frozenset(keys)
    for key in keys:
        if key.endswith(_SCALE_SUFFIXES):
            target = next((name for name in _quantized_candidates(key) if name in known), None)
            if target is not None:
                found.setdefault(target, key)
    return found


def _quantized_candidates(key: str) -> Iterator[str]:
    """Return the tensors that this scale may quantise. `X.scale` of a layer X replaces its alpha / r instead."""
    base, _, spelling = key.rpartition(".")
    for target in (f"{base}.weight", base):
        split = split_key(target)
        if split is not None and (spelling != "scale" or split[0] != base):
            yield target


def dequantize(tensor: Tensor, scale: Tensor, tensor_name: str) -> Tensor:
    """Return tensor · scale in float32. Raise ShapeMismatch, naming the tensor `what`, if the scale does not fit."""
    factors, numbers = scale.float(), tensor.float()
    if factors.numel() == 1:
        return numbers * factors.reshape(())
    while factors.ndim > 1 and factors.shape[-1] == 1:
        factors = factors.squeeze(-1)
    if factors.ndim == 1 and numbers.ndim and len(factors) == len(numbers):
        return numbers * factors.view(-1, *(1 for _ in numbers.shape[1:]))
    if factors.ndim != 2 or numbers.ndim != 2 or any(n % m for n, m in zip(numbers.shape, factors.shape, strict=True)):
        raise ShapeMismatch(
            f"the scale {list(scale.shape)} of {tensor_name} does not fit its shape {list(tensor.shape)}"
        )
    for axis in (0, 1):
        factors = factors.repeat_interleave(numbers.shape[axis] // factors.shape[axis], dim=axis)
    return numbers * factors
