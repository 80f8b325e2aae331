"""Tucker ("CP") cores of convolutions, folded into one of their two factors."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_core(core: Tensor, down: Tensor) -> Tensor:
    """core [p, q, ...], down [q, i] -> [p, i*kernel]: what is left is an ordinary up @ down."""
    return torch.einsum("pq...,qi->pi...", core.float(), down.float()).flatten(1)
