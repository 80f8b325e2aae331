"""Spherical linear interpolation (Shoemake 1985)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_STRAIGHT = 1e-4  # below this sine the arc is a point or a half circle, and nobody can tell it from a line


def slerp(low: Tensor, high: Tensor, fraction: float) -> Tensor:
    """[..., d], [..., d] -> [..., d], `share` 0 for `low` to 1 for `high`.

    The angle is the last axis's, the lengths are mixed as they are.
    """
    one, two = normalize(low, dim=-1), normalize(high, dim=-1)
    # not acos of the cosine: in float32 that knows no angle below 3e-4 (Kahan)
    angle = 2 * torch.atan2((one - two).norm(dim=-1, keepdim=True), (one + two).norm(dim=-1, keepdim=True))
    sine = torch.sin(angle)
    line = sine.abs() < _STRAIGHT
    sine = torch.where(line, torch.ones_like(sine), sine)
    first = torch.where(line, 1.0 - fraction, torch.sin((1.0 - fraction) * angle) / sine)
    second = torch.where(line, fraction, torch.sin(fraction * angle) / sine)
    return first * low + second * high
