"""Orthogonal wavelets with 2N taps, Daubechies (db) and symlets (sym), computed from their roots.

Daubechies, Ten Lectures on Wavelets, chapters 6 and 8: the low-pass filter is (1 + z)^N times a factor of
P(y) = Σ C(N-1+k, k)·y^k with y = (2 - z - 1/z) / 4. One of each pair of roots z, 1/z is used: for db the one inside the
unit circle, for sym the ones that make the filter least asymmetric.
"""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

# Symlets for N = 1 ... 10: "1" for each root outside the unit circle; conjugate pairs in order of their real part
_OUTSIDE = ("", "0", "0", "10", "01", "101", "001", "1010", "0110", "10101")
FAMILIES = ("db", "sym")
MAX_ORDER = len(_OUTSIDE)


def low_pass(family: str, order: int) -> Tensor:
    """Return the synthesis low-pass filter, float32 [2·order] on the CPU; its sum is √2."""
    pairs = _roots(order)
    outside = _OUTSIDE[order - 1] if family == "sym" else "0" * len(pairs)
    components = [1 / z if out == "1" else z for out, pair in zip(outside, pairs, strict=True) for z in pair]
    taps = torch.ones(1, dtype=torch.complex128, device="cpu")
    for root in [-1.0] * order + components:
        taps = torch.cat((taps, taps.new_zeros(1))) - torch.cat((taps.new_zeros(1), taps * root))
    return (taps.real / taps.real.sum() * math.sqrt(2)).float()


def inverse_transform(bands: Tensor, low: Tensor) -> Tensor:
    """Return one synthesis level along the rows: bands [2h, w], low-pass bands first, to [2h + 2 - taps, w]."""
    taps, half = len(low), len(bands) // 2
    high = low.flip(0) * low.new_tensor([1.0, -1.0]).repeat(taps // 2)
    out = bands.new_zeros(2 * half - 2 + taps, bands.shape[1])
    for n in range(taps):
        out[n : n + 2 * half - 1 : 2] += bands[:half] * low[n] + bands[half:] * high[n]
    return out[taps - 2 : len(out) - taps + 2]


def _roots(order: int) -> list[list[complex]]:
    """Return the roots inside the unit circle, each with its conjugate, in order of their real part."""
    if order == 1:
        return []
    coefficients = [float(math.comb(order - 1 + k, k)) for k in range(order)]
    companion = torch.diag(torch.ones(order - 2, dtype=torch.float64, device="cpu"), -1)
    companion[:, -1] = torch.tensor(coefficients[:-1], dtype=torch.float64, device="cpu") / -coefficients[-1]
    inside = [_inside(y) for y in torch.linalg.eigvals(companion).tolist()]
    upper = sorted((z for z in inside if z.imag > -1e-9), key=lambda z: z.real)
    return [[z] if abs(z.imag) < 1e-9 else [z, z.conjugate()] for z in upper]


def _inside(y: complex) -> complex:
    """Return the z with |z| < 1 that solves z + 1/z = 2 - 4y."""
    middle = 1 - 2 * y
    step = cmath.sqrt(middle * middle - 1)
    return min(middle - step, middle + step, key=abs)
