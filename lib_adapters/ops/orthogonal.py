"""Block rotations of a weight: their generators, and W += strength · (R − I)·W without building R's full matrix.

A "turn" is R − I, [n, b, b] for n blocks of size b. It is solved for directly: taking I from R in float32
would leave only a few digits of a small rotation.
Papers: OFT, arXiv:2306.07280; BOFT, arXiv:2311.06243; HRA, arXiv:2405.17484; WY form: Schreiber, Van Loan 1989.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_adapters.ops.lazy_delta import matrix_view


def skew(blocks: Tensor) -> Tensor:
    """Q = B − Bᵀ per block, [..., b, b] -> [..., b, b]."""
    blocks = blocks.float()
    return blocks - blocks.transpose(-1, -2)


def skew_from_upper(packed: Tensor, size: int) -> Tensor:
    """Q from its upper triangle in rows, [n, b(b−1)/2] -> [n, b, b]."""
    rows, columns = torch.triu_indices(size, size, 1, device=packed.device)
    upper = packed.new_zeros(len(packed), size, size, dtype=torch.float32)
    upper[:, rows, columns] = packed.float()
    return upper - upper.transpose(-1, -2)


def clip_norm(q: Tensor, bound: float) -> Tensor:
    """Q [..., b, b], its Frobenius norm over all blocks together brought down to `bound` (LyCORIS)."""
    norm: Tensor = torch.linalg.vector_norm(q)
    return q * (bound / (norm + 1e-8)).clamp(max=1.0)


def clip_norm_kohya(q: Tensor, bound: float) -> Tensor:
    """The same with kohya's epsilon in both halves: a bound of 0 leaves no rotation at all."""
    norm: Tensor = torch.linalg.vector_norm(q)
    return q * ((norm.clamp(max=bound) + 1e-8) / (norm + 1e-8))


def clip_norm_per_block(q: Tensor, bound: float) -> Tensor:
    """Return Q [..., b, b] with the Frobenius norm of each block limited to `bound` (PEFT's COFT)."""
    norms: Tensor = torch.linalg.matrix_norm(q, keepdim=True)
    return torch.where(norms <= bound, q, q * (bound / norms))


def cayley_delta(q: Tensor) -> Tensor:
    """R − I for R = (I + Q)(I − Q)⁻¹, [..., b, b] -> [..., b, b]; −Q gives the transposed rotation."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    turn: Tensor = torch.linalg.solve_ex(eye - q, 2.0 * q)[0]  # never singular: no check, so no wait for the device
    return turn


def neumann_delta(q: Tensor, last: float, highest: int = 4) -> Tensor:
    """R − I for R = I + 2Q + 2Q² + ... + last·Qʰ, the short series of the Cayley form, [n, b, b] -> [n, b, b].

    `highest` is h; 0 gives no rotation.
    """
    turn, power = torch.zeros_like(q), q
    for exponent in range(1, highest + 1):
        turn.add_(power, alpha=2.0 if exponent < highest else last)
        power = power @ q if exponent < highest else power
    return turn


def rotate_rows_(out: Tensor, base: Tensor, delta: Tensor, strength: float) -> None:
    """out += strength · blockdiag(turn) @ base over the output rows; out, base [n*b, ...]."""
    matrix = matrix_view(out)
    if matrix is None:
        fresh = out.new_zeros(out.shape)
        rotate_rows_(fresh, base, delta, strength)
        out.add_(fresh)
    else:
        _turn(matrix, base.flatten(1), delta, strength)


def rotate_columns_(out: Tensor, base: Tensor, delta: Tensor, strength: float) -> None:
    """out += strength · base @ blockdiag(turn) over the flattened input; out, base [o, n*b]."""
    matrix = matrix_view(out)
    if matrix is None:
        fresh = out.new_zeros(out.shape)
        rotate_columns_(fresh, base, delta, strength)
        out.add_(fresh)
    else:
        _turn(matrix.T, base.flatten(1).T, delta.mT, strength)


def _turn(out: Tensor, base: Tensor, turn: Tensor, strength: float) -> None:
    """Both matrices may be transposed views: splitting an axis is a view for any strides."""
    blocks = (*turn.shape[:2], out.shape[1])
    out.view(blocks).baddbmm_(turn, base.view(blocks), alpha=strength)


def butterfly_delta(base: Tensor, deltas: Sequence[Tensor], strength: float, chunk: int = 1) -> Tensor:
    """(Fₘ ⋯ F₁ − I) @ base for the factors F = I + strength · turn of BOFT, base [o, columns], each turn [n, b, b].

    Factor i mixes rows that lie 2ⁱ·b/2 apart; two scratch weights serve all factors. Inside a block the two halves
    alternate every `chunk` rows: 1 in LyCORIS, b/2 in PEFT.
    """
    rows, columns = base.shape
    delta, near, moved = base.new_zeros(rows, columns), base.new_empty(rows, columns), base.new_empty(rows, columns)
    for i, turn in enumerate(deltas):
        reach = 2**i * turn.shape[-1] // 2 // chunk
        apart, together = (-1, 2, reach, chunk, columns), (-1, reach, 2, chunk, columns)
        transaction = delta.view(apart).transpose(1, 2)
        torch.add(base.view(apart).transpose(1, 2), transaction, out=near.view(together))
        blocks = (*turn.shape[:2], columns)
        torch.bmm(turn, near.view(blocks), out=moved.view(blocks))
        transaction.add_(moved.view(together), alpha=strength)
    return delta


def top_singular_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of [o, i] as [o, r] @ [r, i], the largest singular value first.

    Whatever the signs of singular vectors are.

    From the Gram matrix of the shorter side in float64: exact to float32's last digit, and much faster than the
    singular value decomposition where one side is longer.
    """
    wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
    vectors = torch.linalg.eigh(wide @ wide.T)[1][:, -rank:].flip(1)  # eigenvalues ascend
    others = vectors.T @ wide
    pair = (vectors, others) if weight.shape[0] <= weight.shape[1] else (others.T, vectors.T)
    return pair[0].float(), pair[1].float()


def reflections(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(U, T) so that the reflections I − 2uuᵀ along the columns u, multiplied in their order, are I − U·T·Uᵀ.

    vectors [d, r] of any length -> U [d, r] of unit length, T [r, r] (the compact WY form); a vector of zeros, which
    has no direction, reflects nothing.
    """
    vectors = vectors.float()
    unit = vectors / torch.linalg.vector_norm(vectors, dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    inner = (unit.T @ unit).triu(1) + 0.5 * torch.eye(unit.shape[1], dtype=torch.float32, device=unit.device)
    eye = torch.eye(unit.shape[1], dtype=torch.float32, device=unit.device)
    return unit, torch.linalg.solve_triangular(inner, eye, upper=True)
