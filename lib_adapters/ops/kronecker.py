"""Kronecker products (LoKr), broadcast straight into the weight and never built."""

from __future__ import annotations

import torch
from torch import Tensor


def split_axis(tensor: Tensor, axis: int, parts: int) -> Tensor:
    """[..., parts * n, ...] -> [..., parts, n, ...]; unlike a merged axis, a split one is a view for any strides."""
    shape = list(tensor.shape)
    shape[axis : axis + 1] = [parts, shape[axis] // parts]
    return tensor.view(shape)


class Kron:
    """scale · w1 ⊗ w2: w1 [a, c], w2 [b, d*kernel], o = a*b, i = c*d."""

    def __init__(self, w1: Tensor, w2: Tensor, scale: float) -> None:
        self.w1, self.w2, self.scale = w1.float(), w2.float(), scale

    def add(self, out: Tensor, strength: float) -> None:
        self._sum(out, out, strength)

    def merged(self, weight: Tensor, strength: float, out: Tensor | None = None) -> Tensor:
        """base + strength · ΔW, one read and one write."""
        out = torch.empty_like(weight) if out is None else out
        self._sum(weight, out, strength)
        return out

    def _sum(self, base: Tensor, out: Tensor, strength: float) -> None:
        (a, c), kernel = self.w1.shape, out.shape[2:]
        w1 = self.w1.view(a, 1, c, 1, *(1 for _ in kernel))
        w2 = self.w2.view(1, len(self.w2), 1, out.shape[1] // c, *kernel)
        before, after = (split_axis(split_axis(tensor, 1, c), 0, a) for tensor in (base, out))
        torch.addcmul(before, w1, w2, value=self.scale * strength, out=after)

    def rows(self, start: int, stop: int) -> KronRows:
        row = torch.arange(start, stop, device=self.w1.device)
        return KronRows(self.w1[row // len(self.w2)], self.w2[row % len(self.w2)], self.scale)


class KronRows:
    """Rows of a Kronecker product: left [n, c], right [n, d*kernel]."""

    def __init__(self, left: Tensor, right: Tensor, scale: float) -> None:
        self.left, self.right, self.scale = left, right, scale

    def add(self, out: Tensor, strength: float) -> None:
        (n, c), kernel = self.left.shape, out.shape[2:]
        left = self.left.view(n, c, 1, *(1 for _ in kernel))
        right = self.right.view(n, 1, out.shape[1] // c, *kernel)
        split_axis(out, 1, c).addcmul_(left, right, value=self.scale * strength)

    def rows(self, start: int, stop: int) -> KronRows:
        return KronRows(self.left[start:stop], self.right[start:stop], self.scale)
