"""Random tensors that a trainer draws from a seed and does not save: the same calls on the same generator.

The numbers are those of torch's generator on the CPU, as torch 2.13 draws them. torch does not promise the same numbers
in every release; where they differ, PEFT itself reads such a file differently there too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU, whatever the default device is."""
    return torch.Generator(device="cpu").manual_seed(seed)


def uniform(
    shape: tuple[int, ...], bound: float, numbers: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Values between -bound and bound, on the CPU."""
    return torch.empty(shape, dtype=dtype, device="cpu").uniform_(-bound, bound, generator=numbers)


def random_places(seed: int, count: int, rows: int, columns: int) -> Tensor:
    """[2, count] row and column: the first `count` of all places of a matrix in random order, no two alike."""
    order = torch.randperm(rows * columns, generator=generator(seed), device="cpu")[:count]
    return torch.stack((torch.div(order, columns, rounding_mode="floor"), order % columns))


def kaiming_bound(fan_in: int, slope: float) -> float:
    """The bound of `torch.nn.init.kaiming_uniform_` for a leaky ReLU of this slope; 0 for a plain one."""
    gain = math.sqrt(2.0 / (1 + slope**2))
    return math.sqrt(3.0) * (gain / math.sqrt(fan_in))
