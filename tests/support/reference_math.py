"""What an example of an algorithm is, and the words its slow definition is written in: one entry of ΔW at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, LayerGroup, TrainingInfo

Shape = tuple[int, ...]
LINE, CONV, POINT = (6, 8), (6, 8, 3, 2), (6, 8, 1, 1)


class Example(NamedTuple):
    leaves: dict[str, Tensor]
    shape: Shape
    slow: Callable[[Tensor, float], Tensor]  # base in float64, strength -> ΔW
    facts: TrainingInfo = TrainingInfo()

    def read(self, dtype: torch.dtype | None = None) -> Algorithm:
        leaves = {n: leaf if dtype is None or leaf.numel() == 1 else leaf.to(dtype) for n, leaf in self.leaves.items()}
        alone = select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(
            leaves, self.facts
        )
        return alone.in_group(self.shape, LayerGroup((self.shape,)))


def entries(shape: Shape, value: Callable[..., Tensor | float]) -> Tensor:
    out = torch.zeros(shape, dtype=torch.float64)
    for index in itertools.product(*map(range, shape)):
        out[index] = value(*index)
    return out


def additive(shape: Shape, value: Callable[..., Tensor | float]) -> Callable[[Tensor, float], Tensor]:
    return lambda base, strength: strength * entries(shape, value)


def pair(up: Tensor, down: Tensor, core: Tensor | None = None) -> Callable[..., Tensor]:
    """up @ down at one place: up [o, r], down [r, i, ...], core [r, r, ...] between them."""
    up, down = up.double().flatten(1), down.double()
    if core is None:
        return lambda o, i, *k: sum(up[o, n] * down[(n, i, *k)] for n in range(len(down)))
    ranks = list(itertools.product(*map(range, core.shape[:2])))
    down = down.flatten(1)
    return lambda o, i, *k: sum(up[o, p] * core.double()[(p, q, *k)] * down[q, i] for p, q in ranks)


def times(factor: float, *values: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *index: factor * math.prod(value(*index) for value in values)


def kron(w1: Tensor, w2: Tensor) -> Callable[..., Tensor]:
    b, d = w2.shape[:2]
    return lambda o, i, *k: w1.double()[o // b, i // d] * w2.double()[(o % b, i % d, *k)]


def decomposed(
    inner: Callable[[Tensor, float], Tensor], magnitude: Tensor, axis: int, norm: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, float], Tensor]:
    def delta(base: Tensor, strength: float) -> Tensor:
        v = base + inner(base, 1.0)
        new = v.clone()
        for n in range(base.shape[axis]):
            new.select(axis, n).mul_(magnitude.double().flatten()[n] / norm(v.select(axis, n)))
        return strength * (new - base)

    return delta


def glora(w: Tensor, a: Callable[..., Tensor], b: Callable[..., Tensor], scale: float) -> Tensor:
    """scale · (W·A + B), A over W's input axis."""
    width = range(w.shape[1])
    return entries(tuple(w.shape), lambda o, i, *k: scale * (b(o, i, *k) + sum(w[(o, j, *k)] * a(j, i) for j in width)))
