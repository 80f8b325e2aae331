"""Random tensors that a trainer generates from a seed and does not save, reproduced by the same calls.

They use torch's CPU generator and are tested with torch 2.13. torch does not guarantee the same numbers in every
release; where they differ, PEFT itself reads such a file differently there too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator, independent of the default device."""
    return torch.Generator(device="cpu").manual_seed(seed)


def uniform(
    shape: tuple[int, ...], bound: float, numbers: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return uniform values between -bound and bound, on the CPU."""
    return torch.empty(shape, dtype=dtype, device="cpu").uniform_(-bound, bound, generator=numbers)


def random_positions(seed: int, count: int, rows: int, columns: int) -> Tensor:
    """Return the row and column [2, count] of `count` distinct entries of a matrix in random order."""
    order = torch.randperm(rows * columns, generator=generator(seed), device="cpu")[:count]
    return torch.stack((torch.div(order, columns, rounding_mode="floor"), order % columns))


def kaiming_bound(fan_in: int, slope: float) -> float:
    """Return the bound of `torch.nn.init.kaiming_uniform_` for a leaky ReLU of this slope; slope 0 is a plain ReLU."""
    gain = math.sqrt(2.0 / (1 + slope**2))
    return math.sqrt(3.0) * (gain / math.sqrt(fan_in))
