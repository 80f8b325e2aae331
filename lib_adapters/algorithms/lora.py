"""LoRA, LoCon and DyLoRA: ΔW = scale · up @ down, with a core between them for tucker convolutions.

Papers: LoRA, arXiv:2106.09685; DyLoRA, arXiv:2210.07558. Leaf names: kohya sd-scripts, LyCORIS `LoConModule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lib_adapters.algorithms.base import LowRankFactors, Shape, Shapes, Tensors, TrainingInfo, shape_mismatch
from lib_adapters.algorithms.low_rank import AdditiveAlgorithm, check_factors, input_matches, total_scale
from lib_adapters.errors import ShapeMismatch
from lib_adapters.ops.lazy_delta import LazyDelta, Matmul, WithDense, WithSparse
from lib_adapters.ops.tucker import fold_core

LEAVES = {"lora_up.weight", "lora_down.weight"}


@dataclass(frozen=True, eq=False)
class Lora(AdditiveAlgorithm):
    """Fits W [o, i, ...]. `dense` and `values` are scaled as up @ down is, `diff_bias` is not."""

    label: ClassVar[str] = "LoRA"

    up: Tensor  # [o, r], or [o, r, 1, 1] where the trainer's layer was a convolution
    down: Tensor  # [r, i, ...], or [r, i*kernel]
    mid: Tensor | None  # [r, r, ...]: its first axis meets `up`
    scale: float
    dylora: str = ""  # whose DyLoRA: "kohya", "lycoris" or "" for neither
    dense: Tensor | None = None  # shaped like W, added to up @ down before the scale
    places: Tensor | None = None  # [2, n] row and column in [o, i*kernel]: the same for `values` alone
    values: Tensor | None = None  # [n]
    matrix: Shape = ()  # what the places lie in
    up_bias: Tensor | None = None  # [o]
    down_bias: Tensor | None = None  # [r]
    diff_bias: Tensor | None = None  # [o], `diff_b` beside the pair: added as it is

    @classmethod
    def claims(cls, shapes: Shapes) -> bool:
        return shapes.keys() >= LEAVES and not shapes.keys() & {"dora_scale", "diff", "lora_E"}

    @classmethod
    def from_tensors(cls, tensors: Tensors, info: TrainingInfo) -> Self:
        up, down, mid = tensors["lora_up.weight"], tensors["lora_down.weight"], tensors.get("lora_mid.weight")
        _check(up, down, mid)
        dylora = _dylora(info)
        scale = total_scale(tensors, len(down), info)
        if "scale" not in tensors and info.scale_override is None:
            scale *= info.block_size if dylora == "lycoris" else _parts(up, info)
        biases = tensors.get("lora_up.bias"), tensors.get("lora_down.bias"), tensors.get("diff_b")
        _check_biases(biases, (len(up), len(down), len(up)))
        return cls(up, down, mid, scale, dylora, tensors.get("bias"), *_sparse(tensors), *biases)

    def check_shape(self, shape: Shape) -> None:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        mine = (len(self.up), self.down.shape[1], *kernel)
        if not shape or mine[0] != shape[0] or not input_matches(mine, shape):
            raise shape_mismatch(mine, shape)
        flat = (shape[0], math.prod(shape[1:]))
        if self.dense is not None and self.dense.shape not in (shape, flat):
            raise shape_mismatch(self.dense.shape, shape)
        if self.places is not None and self.matrix != flat:
            raise shape_mismatch(self.matrix, shape)

    def lazy_delta(self, shape: Shape) -> LazyDelta:
        product: LazyDelta = Matmul(self.up.flatten(1), self._columns(), self.scale)
        if self.dense is not None:
            product = WithDense(product, self.dense.view(shape), self.scale)
        if self.places is not None and self.values is not None:
            product = WithSparse(product, self.places, self.values, self.scale)
        return product

    def as_low_rank(self, weight: Tensor) -> LowRankFactors | None:
        if self.dense is not None or self.places is not None:
            return None
        return LowRankFactors(self.up.flatten(1), self._columns(), self.scale)

    def _columns(self) -> Tensor:
        return self.down.flatten(1) if self.mid is None else fold_core(self.mid, self.down.flatten(1))

    @property
    def rank(self) -> int:
        return len(self.down)

    def truncate(self, rank: int) -> Self:
        """kohya trained d of r components at s·sqrt(r/d), LyCORIS at alpha per block; plain LoRA keeps alpha/r."""
        if not 0 < rank < self.rank:
            return self
        ratio = self.rank / rank
        grown = {"kohya": math.sqrt(ratio), "lycoris": ratio}.get(self.dylora, 1.0)
        return replace(
            self,
            up=self.up[:, :rank],
            down=self.down[:rank],
            mid=None if self.mid is None else self.mid[:rank, :rank],
            down_bias=None if self.down_bias is None else self.down_bias[:rank],
            scale=self.scale * grown,
        )

    @property
    def has_bias(self) -> bool:
        return any(bias is not None for bias in (self.up_bias, self.down_bias, self.diff_bias))

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        """The trainer's up(down(x)) has these biases inside, so both are scaled."""
        if not self.has_bias:
            return None
        total = torch.zeros(len(self.up), dtype=torch.float32, device=self.up.device)
        if self.up_bias is not None:
            total += self.up_bias.float()
        if self.down_bias is not None:
            total += self.up.flatten(1).float() @ self.down_bias.float()
        total *= self.scale
        return total if self.diff_bias is None else total + self.diff_bias.float()


def _check(up: Tensor, down: Tensor, mid: Tensor | None) -> None:
    if mid is None:
        return check_factors(up, down, "lora_up and lora_down")
    check_factors(up, mid, "lora_up and lora_mid")
    if down.ndim < 2 or mid.shape[1] != len(down) or any(k != 1 for k in down.shape[2:]):
        raise ShapeMismatch(f"lora_mid of {list(mid.shape)} and lora_down of {list(down.shape)} do not fit each other")


def _check_biases(biases: tuple[Tensor | None, ...], sizes: Shape) -> None:
    for bias, size in zip(biases, sizes, strict=True):
        if bias is not None and bias.shape != (size,):
            raise ShapeMismatch(f"a bias of {list(bias.shape)} does not fit a factor of {size} rows")


def _dylora(facts: TrainingInfo) -> str:
    if facts.algo != "dylora":
        return ""
    return "kohya" if facts.producer == "kohya" else "lycoris"


def _parts(up: Tensor, facts: TrainingInfo) -> int:
    """How many LoRAs kohya's split_qkv saved as one block-diagonal pair, whose alpha is still that of one."""
    if not facts.split_qkv:
        return 1
    rows = up.flatten(1) != 0
    return next((n for n in (3, 4) if rows.shape[1] % n == 0 and _block_diagonal(rows, n)), 1)


def _block_diagonal(used: Tensor, parts: int) -> bool:
    """used [o, r]: does every share of the columns touch rows of its own?"""
    shares = torch.stack([share.any(dim=1) for share in used.chunk(parts, dim=1)])
    return bool((shares.sum(dim=0) <= 1).all()) and bool(shares.any(dim=1).sum() > 1)


def _sparse(leaves: Tensors) -> tuple[Tensor | None, Tensor | None, Shape]:
    """LyCORIS' extraction can keep the largest leftovers of W: places, values and the shape they lie in."""
    if "bias_indices" not in leaves:
        return None, None, ()
    places, values = leaves["bias_indices"], leaves["bias_values"]
    size = tuple(leaves["bias_size"].flatten().long().tolist())
    if len(size) != 2 or values.ndim != 1 or places.shape != (2, len(values)) or not _inside(places, size):
        raise ShapeMismatch(f"bias_indices of {list(places.shape)} do not fit a sparse residual of {list(size[:4])}")
    return places, values, size


def _inside(places: Tensor, size: Shape) -> bool:
    spots = places.long()  # not every type that a file may have can be compared
    return bool(((spots >= 0) & (spots < torch.tensor(size, device=places.device).unsqueeze(1))).all())
