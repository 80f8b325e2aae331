"""Comparison of two adapter files layer by layer, through the parameters of their algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lib_adapters.algorithms.base import Algorithm
from lib_adapters.algorithms.dora import Dora
from lib_adapters.algorithms.lora import Lora
from lib_adapters.files.adapter import Adapter
from lib_adapters.files.tensor_keys import LayerKey


def first_difference(source: Adapter, new: Adapter, places: Mapping[LayerKey, object]) -> str:
    """Return the name of the first layer of `source` that `new` changes differently; "" if there is none.

    `places` maps the layer names of both files to a common identity; a layer that it lacks keeps its name.
    """
    after = {places.get(stem, stem): algorithm for stem, algorithm in new.load().algorithms.items()}
    loaded = source.load().algorithms
    for module in source.layers:
        before = loaded.get(module.key)
        if before is not None and not are_equivalent(before, after.get(places.get(module.key, module.key))):
            return f"{module.name} ({before.label})"
    return ""


def are_equivalent(one: Algorithm, other: Algorithm | None) -> bool:
    """True if the algorithms are equal up to rounding in the coarser of their dtypes."""
    if type(one) is not type(other) or other is None:
        return False
    tolerance = 2 * max(_eps(one), _eps(other))
    mine, others = _traits(one), _traits(other)
    return mine.keys() == others.keys() and all(_same(mine[name], others[name], tolerance) for name in mine)


def _eps(algorithm: Algorithm) -> float:
    """Return the machine epsilon of the coarsest tensor; at least that of float32, in which scales are computed."""
    types = {part.dtype for part in vars(algorithm).values() if isinstance(part, Tensor) and part.is_floating_point()}
    return max(torch.finfo(dtype).eps for dtype in types | {torch.float32})


def _traits(algorithm: Algorithm) -> dict[str, Any]:
    """Return the algorithm's parameters in a normal form, equal for equivalent ways to store the same delta."""
    traits = dict(vars(algorithm))
    if isinstance(algorithm, Lora):
        scale = traits.pop("scale")
        scaled = {"up", "dense", "values", "up_bias"}
        traits |= {name: traits[name].float() * scale for name in scaled if traits[name] is not None}
    if isinstance(algorithm, Dora):
        vector, rows_first = algorithm.magnitude, traits.pop("rows_first")
        traits["rows"] = vector.ndim == 1 or len(vector) > 1 or rows_first
    return traits


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, Algorithm):
        return isinstance(other, Algorithm) and are_equivalent(one, other)
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.numel() == other.numel() and _close(one, other, tolerance)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance)
    return bool(one == other)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Equal but for rounding; whole numbers are places and have to be equal."""
    before, after = one.flatten().double(), other.flatten().double()
    if not one.is_floating_point():
        return torch.equal(before, after)
    return bool((before - after).norm() <= tolerance * before.norm())
