"""One example per way to store a rotation, with its slow definition: loops and inverses, straight from the formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, TrainingInfo


class Rotation(NamedTuple):
    leaves: dict[str, Tensor]
    shape: tuple[int, ...]
    slow: Callable[[Tensor, float], Tensor]  # base in float64, strength -> ΔW
    facts: TrainingInfo = TrainingInfo()

    def read(self, dtype: torch.dtype = torch.float32) -> Algorithm:
        leaves = {name: leaf.to(dtype) for name, leaf in self.leaves.items()}
        return select_algorithm({name: tuple(leaf.shape) for name, leaf in leaves.items()}).from_tensors(
            leaves, self.facts
        )


def rotation(block: Tensor, factor: float = 1.0) -> Tensor:
    """R of B: Q = B − Bᵀ times what is left of it under the constraint."""
    q, eye = (block - block.T).double() * factor, torch.eye(len(block)).double()
    return (eye + q) @ torch.linalg.inv(eye - q)


def norm(blocks: Tensor) -> float:
    """‖Q‖ over all blocks together."""
    return math.sqrt(sum(float(((b - b.T).double() ** 2).sum()) for b in blocks.flatten(0, -3)))


def linear(turned: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    return lambda base, strength: strength * (turned(base) - base)


def by_rows(rotations: list[Tensor], rescale: Tensor | None = None) -> Callable[[Tensor, float], Tensor]:
    def turned(base: Tensor) -> Tensor:
        out, size = torch.zeros_like(base), len(rotations[0])
        for k, r in enumerate(rotations):
            for m in range(size):
                for n in range(size):
                    out[k * size + m] += r[n, m] * base[k * size + n]
        return out if rescale is None else out * rescale.double()

    return linear(turned)


def by_columns(rotations: list[Tensor]) -> Callable[[Tensor, float], Tensor]:
    """flat(W) · blockdiag(rotations)."""
    return linear(lambda base: (base.flatten(1) @ torch.block_diag(*rotations)).view(base.shape))


def butterfly(factors: list[list[Tensor]], rescale: Tensor | None = None) -> Callable[[Tensor, float], Tensor]:
    """Row by row: factor i takes rows that lie 2ⁱ·b/2 apart into neighbours, turns them in blocks, puts them back."""

    def delta(base: Tensor, strength: float) -> Tensor:
        now, size = base.clone(), len(factors[0][0])
        for i, blocks in enumerate(factors):
            reach, order = 2**i * size // 2, []
            for c in range(len(base) // (2 * reach)):
                order += [c * 2 * reach + g * reach + k for k in range(reach) for g in range(2)]
            near = now[order]
            for d, r in enumerate(blocks):
                mixed = strength * r + (1 - strength) * torch.eye(size).double()
                rows = slice(d * size, (d + 1) * size)
                near[rows] = torch.einsum("xy,y...->x...", mixed, near[rows])
            now[order] = near
        return (now if rescale is None else now * rescale.double()) - base

    return delta


def series(packed: Tensor, size: int, last: float = 1.0) -> list[Tensor]:
    """OFTv2's R of each row of packed values."""
    out = []
    for row in packed.double():
        q, at = torch.zeros(size, size).double(), iter(row)
        for x in range(size):
            for y in range(x + 1, size):
                q[x, y] = next(at)
        q = q - q.T
        out.append(torch.eye(size).double() + 2 * q + 2 * q @ q + 2 * q @ q @ q + last * q @ q @ q @ q)
    return out


def thin() -> dict[str, Rotation]:
    """The low-rank relatives: rotations of singular vectors, and singular triples that moved."""
    torch.manual_seed(6)
    line, point, rank = (16, 12), (16, 12, 1, 1), 3
    p, q, weights = torch.randn(16, rank) * 0.4, torch.randn(rank, 12) * 0.4, torch.rand(1, rank)
    p0, q0, weights0 = torch.randn(16, rank) * 0.4, torch.randn(rank, 12) * 0.4, torch.rand(1, rank)
    turn_p, turn_q = torch.randn(rank, rank) * 0.3, torch.randn(rank, rank) * 0.3
    moved = {"p_layer.weight": p, "lambda_layer": weights, "q_layer.weight": q, "alpha": torch.tensor(1.5)}
    start = {"base_p": p0, "base_lambda": weights0, "base_q": q0}
    ortho = {"P_basis": p, "S_p": turn_p, "lambda_layer": weights, "S_q": turn_q, "Q_basis": q}

    def product(p: Tensor, weights: Tensor, q: Tensor) -> Tensor:
        return sum(weights[0, k].double() * torch.outer(p[:, k].double(), q[k].double()) for k in range(rank))

    def from_stored(base: Tensor, strength: float) -> Tensor:
        return strength * 0.5 * (product(p, weights, q) - product(p0, weights0, q0))

    def from_base(base: Tensor, strength: float) -> Tensor:
        u, s, v = torch.linalg.svd(base.flatten(1))
        return (strength * 0.5 * (product(p, weights, q) - product(u, s[None], v))).view(base.shape)

    def twice_turned(base: Tensor, strength: float) -> Tensor:
        return strength * 2 / 3 * product(p.double() @ rotation(turn_p).T, weights, rotation(turn_q).T @ q.double())

    convolved = {name: t[..., None, None] if "_layer." in name else t for name, t in moved.items()}
    return {
        "tlora": Rotation(moved, line, from_base),
        "tlora-conv": Rotation(convolved, point, from_base),
        "tlora-wide": Rotation(
            {**moved, "p_layer.weight": q.T, "q_layer.weight": p.T}, (12, 16), lambda w, s: from_base(w.T, s).T
        ),
        "tlora-stored": Rotation({**moved, **start}, line, from_stored),
        "ortholora": Rotation({**ortho, "alpha": torch.tensor(2.0)}, line, twice_turned),
    }


def rotations() -> dict[str, Rotation]:
    return {**turned(), **thin()}


def turned() -> dict[str, Rotation]:
    torch.manual_seed(5)
    line, square, conv, point = (16, 12), (16, 16), (16, 12, 3, 3), (16, 12, 1, 1)
    b = torch.randn(4, 4, 4) * 0.3
    r = [rotation(x) for x in b]
    stored = torch.stack(r).float()
    rescale = torch.rand(16, 1) + 0.5
    grown = rescale.view(4, 4, 1)
    half = 0.5 * norm(b) / 16  # as a constraint: half of what ‖Q‖ is
    butter = torch.randn(3, 4, 4, 4) * 0.3
    factors = [[rotation(x) for x in factor] for factor in butter]
    stored_factors = torch.stack([torch.stack(f) for f in factors]).float()
    packed, wide = torch.randn(3, 6) * 0.2, torch.randn(27, 6) * 0.2
    few, few_factors = torch.randn(2, 8, 8) * 0.2, torch.randn(2, 2, 8, 8) * 0.2  # not as many as they are large
    kohya = TrainingInfo(producer="kohya", constraint_is_bound=True)
    onetrainer, peft = TrainingInfo(producer="onetrainer"), TrainingInfo(producer="peft")
    exact = TrainingInfo(producer="peft", overrides={"use_cayley_neumann": 0.0})
    early = TrainingInfo(producer="peft", overrides={"neumann_last_term": 2.0})
    squares = [m.T for m in series(packed, 4)]
    return {
        "oft": Rotation({"oft_blocks": b}, line, by_rows(r)),
        "oft-few": Rotation({"oft_blocks": few}, line, by_rows([rotation(x) for x in few])),
        "oft-conv": Rotation({"oft_blocks": b, "alpha": torch.tensor(0)}, conv, by_rows(r)),
        "oft-rescale": Rotation({"oft_blocks": b, "rescale": rescale}, line, by_rows(r, rescale)),
        "oft-rescale-conv": Rotation(
            {"oft_blocks": b, "rescale": rescale.view(16, 1, 1, 1)}, conv, by_rows(r, rescale.view(16, 1, 1, 1))
        ),
        "oft-rescale-columns": Rotation({"oft_blocks": b, "rescale": rescale[:, 0]}, square, by_rows(r, rescale.T)),
        "oft-bound": Rotation(
            {"oft_blocks": b, "alpha": torch.tensor(half)}, line, by_rows([rotation(x, 0.5) for x in b])
        ),
        "oft-loose": Rotation({"oft_blocks": b, "alpha": torch.tensor(100.0)}, line, by_rows(r)),
        "kohya-bound": Rotation(
            {"oft_blocks": b, "alpha": torch.tensor(half)}, conv, by_rows([rotation(x, 0.5) for x in b]), kohya
        ),
        "kohya-none": Rotation(
            {"oft_blocks": b, "alpha": torch.tensor(0.0)},
            line,
            by_rows([rotation(x, 1e-8 / norm(b)) for x in b]),
            kohya,
        ),
        "diag": Rotation({"oft_diag": stored}, conv, by_rows(r)),
        "diag-rescaled": Rotation({"oft_diag": stored * grown}, line, by_rows(list(torch.stack(r) * grown))),
        "diag-offset": Rotation({"oft_diag": stored - torch.eye(4)}, line, by_rows(r)),
        "diag-free": Rotation({"oft_diag": b / 3}, line, by_rows([x.double() / 3 + torch.eye(4) for x in b])),
        "boft": Rotation({"oft_blocks": butter}, line, butterfly(factors)),
        "boft-few": Rotation(
            {"oft_blocks": few_factors}, conv, butterfly([[rotation(x) for x in factor] for factor in few_factors])
        ),
        "boft-bound": Rotation(
            {"oft_blocks": butter, "alpha": torch.tensor(0.25 * norm(butter) / 16)},
            conv,
            butterfly([[rotation(x, 0.25) for x in factor] for factor in butter]),
        ),
        "boft-rescale": Rotation({"oft_blocks": butter, "rescale": rescale}, line, butterfly(factors, rescale)),
        "boft-rescale-conv": Rotation(
            {"oft_blocks": butter, "rescale": rescale.view(16, 1, 1, 1)}, conv,
            butterfly(factors, rescale.view(16, 1, 1, 1)),
        ),
        "boft-no-bound": Rotation({"oft_blocks": butter, "alpha": torch.tensor(0.0)}, line, butterfly(factors)),
        "boft-diag": Rotation({"oft_diag": stored_factors}, conv, butterfly(factors)),
        "input": Rotation({"oft_R.weight": packed}, line, by_columns(squares), onetrainer),
        "input-conv": Rotation({"oft_R.weight": wide}, conv, by_columns(series(wide, 4)), onetrainer),
        "input-scaled": Rotation(
            {"oft_R.weight": packed, "oft_R.scaled_oft": torch.tensor(1)},
            point,
            by_columns(series(packed / (2 * math.sqrt(3)), 4)),
            onetrainer,
        ),
        "input-shared": Rotation({"oft_R.weight": packed[:1]}, line, by_columns([squares[0]] * 3), onetrainer),
        "input-peft-conv1x1": Rotation({"oft_R.weight": packed}, point, by_columns(squares), peft),
        "input-exact": Rotation(
            {"oft_R.weight": packed}, line, by_columns([rotation(x) for x in upper(packed)]), exact
        ),
        "input-early": Rotation(
            {"oft_R.weight": packed}, line, by_columns([m.T for m in series(packed, 4, 2.0)]), early
        ),
    }  # fmt: skip


def upper(packed: Tensor) -> Tensor:
    """B of each row, Q's upper triangle alone: Q = B − Bᵀ."""
    out = torch.zeros(len(packed), 4, 4)
    out[:, torch.ones(4, 4).triu(1).bool()] = packed
    return out
