"""Examples of PEFT's tuners that have algorithms of their own, with slow definitions, straight from the formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lib_adapters.algorithms.base import TrainingInfo
from tests.support.reference_math import CONV, LINE, POINT, Example, additive, entries, pair, times

Slow = Callable[[Tensor, float], Tensor]
LONG = (12, 16)


def linear(merged: Callable[[Tensor], Tensor]) -> Slow:
    """From W' of W, both as matrices: the strength multiplies W' − W."""

    def delta(base: Tensor, strength: float) -> Tensor:
        matrix = base.flatten(1)
        return (strength * (merged(matrix) - matrix)).view(base.shape)

    return delta


def only(**overrides: float) -> TrainingInfo:
    return TrainingInfo(producer="peft", overrides=overrides)


def cayley(block: Tensor) -> Tensor:
    """PEFT's: R = (I − S)(I + S)⁻¹ of S = (B − Bᵀ)/2."""
    s, eye = (block - block.T).double() / 2, torch.eye(len(block)).double()
    return (eye - s) @ torch.linalg.inv(eye + s)


def boft(blocks: Tensor, scales: Tensor) -> Slow:
    """Column by column: factor i takes halves of blocks that lie 2ⁱ halves apart side by side, and turns the pairs."""

    def delta(base: Tensor, strength: float) -> Tensor:
        now, size = base.flatten(1).T.clone(), blocks.shape[-1]
        for i, factor in enumerate(blocks):
            order = list(range(len(now)))
            if i:
                half, reach = size // 2, 2**i
                halves = [order[n : n + half] for n in range(0, len(order), half)]
                starts = [c * 2 * reach + k + g * reach for c in range(len(halves) // (2 * reach))
                          for k in range(reach) for g in range(2)]  # fmt: skip
                order = [column for start in starts for column in halves[start]]
            near = now[order]
            for d, block in enumerate(factor):
                mixed = strength * cayley(block) + (1 - strength) * torch.eye(size).double()
                near[d * size : (d + 1) * size] = mixed @ near[d * size : (d + 1) * size]
            now[order] = near
        rows = 1 + strength * (scales.double().view(-1, 1) - 1)
        return (now.T * rows).view(base.shape) - base

    return delta


def bofts() -> dict[str, Example]:
    one, two, three = torch.randn(1, 4, 4, 4) * 0.5, torch.randn(2, 4, 4, 4) * 0.5, torch.randn(3, 4, 4, 4) * 0.5
    odd, six, wide = torch.randn(1, 3, 5, 5) * 0.5, torch.randn(2, 6, 8, 8) * 0.3, torch.randn(2, 12, 4, 4) * 0.5
    tall, low = torch.rand(12, 1) + 0.5, torch.rand(1, 6) + 0.5
    return {
        "boft-input": Example({"boft_R": one, "boft_s": tall}, LONG, boft(one, tall)),
        "boft-input-two": Example({"boft_R": two, "boft_s": tall}, LONG, boft(two, tall)),
        "boft-input-three": Example({"boft_R": three, "boft_s": tall}, LONG, boft(three, tall)),
        "boft-input-odd": Example({"boft_R": odd, "boft_s": tall}, (12, 15), boft(odd, tall)),
        "boft-input-six": Example({"boft_R": six, "boft_s": tall}, (12, 48), boft(six, tall)),
        "boft-input-conv": Example({"boft_R": wide, "boft_s": low}, CONV, boft(wide, low)),
    }


def householder(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    def merged(base: Tensor) -> Tensor:
        for u in vectors.double().T:
            base = base @ (torch.eye(len(u)).double() - 2 * torch.outer(u, u) / (u @ u))
        return base

    return merged


def orthogonal(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    """I − 2·the projection onto what the vectors span."""
    v = vectors.double()
    return lambda base: base - 2 * base @ v @ torch.linalg.inv(v.T @ v) @ v.T


def hras() -> dict[str, Example]:
    u, wide = torch.randn(8, 3), torch.randn(48, 3)
    many, still = torch.randn(8, 11), torch.cat((u, torch.zeros(8, 1)), 1)
    return {
        "hra": Example({"hra_u": u}, LINE, linear(householder(u))),
        "hra-conv": Example({"hra_u": wide}, CONV, linear(householder(wide))),
        "hra-many": Example({"hra_u": many}, LINE, linear(householder(many))),
        "hra-zero": Example({"hra_u": still}, LINE, linear(householder(u))),
        "hra-gs": Example({"hra_u": u}, LINE, linear(orthogonal(u)), only(hra_apply_gs=1.0)),
        "hra-gs-conv": Example({"hra_u": wide}, CONV, linear(orthogonal(wide)), only(hra_apply_gs=1.0)),
    }


def defts() -> dict[str, Example]:
    p, r, alpha = torch.randn(6, 2), torch.randn(2, 8), {"alpha": torch.tensor(3.0)}
    q = torch.linalg.qr(p.double())[0]
    up = p.double()

    def moved(left: Tensor, right: Tensor, injected: Tensor) -> Slow:
        return linear(lambda base: base - left @ right.T @ base + left @ injected)

    return {
        "deft": Example({"deft_P": p, "deft_R": r}, LINE, moved(up, up.relu(), r.double())),
        "deft-alpha": Example({"deft_P": p, "deft_R": r, **alpha}, LINE, moved(up, up.relu(), 1.5 * r.double())),
        "deft-point": Example({"deft_P": p, "deft_R": r}, POINT, moved(up, up.relu(), r.double())),
        "deft-para": Example({"deft_P": p}, LINE, moved(up, up.relu(), 0.0 * r.double())),
        "deft-qr": Example({"deft_P": p, "deft_R": r}, LINE, moved(q, q, r.double()), only(deft_qr=1.0)),
    }


def additives() -> dict[str, Example]:
    circle, wide = torch.randn(3, 4, 2), torch.randn(1, 2, 6)
    up, down, norms, bound = torch.randn(6, 2), torch.randn(2, 8), torch.rand(8) + 0.5, torch.tensor([15.0])
    up[:, 1] *= 1e-6  # shorter than DeLoRA's smallest length
    lengths = [max(float(up[:, k].norm()), 1e-4) * float(down[k].norm()) for k in range(2)]
    a, b, general = torch.randn(2, 4, 4), torch.randn(2, 4, 3), pair(up, down)
    block, small, spots = torch.randn(3, 6), torch.randn(3, 2), torch.randperm(48)[:14]
    places, values = torch.stack((spots // 8, spots % 8)).int(), torch.randn(14)
    places[:, 0] = torch.tensor([5, 7])
    sparse = torch.zeros(6, 8).double()
    for n, (row, column) in enumerate(places.T.tolist()):
        sparse[row, column] += values[n].double()

    def circulant(w: Tensor) -> Callable[..., Tensor]:
        size = w.shape[2]
        return lambda o, i, *k: w.double()[o // size, i // size, (i - o) % size] / (w.shape[1] * size)

    def bounded(o: int, i: int) -> Tensor:
        shares = (up[o, k].double() * down[k, i].double() / lengths[k] for k in range(2))
        return sum(shares) * 7.5 * norms[i].double()

    def blockwise(o: int, i: int, *k: int) -> Tensor:
        """k = 2 blocks of 3 rows and 4 columns, rank 4: 2 for each of the blocks."""
        j, n = o // 3, i // 4
        return sum(a[n, i % 4, 2 * j + q].double() * b[j, 2 * n + q, o % 3].double() for q in range(2))

    delora = {"delora_A": down, "delora_B": up, "delora_lambda": bound, "delora_w_norm": norms}
    gralora, alpha = {"gralora_A": a, "gralora_B": b}, {"alpha": torch.tensor(3.0)}
    hybrid = {"gralora_A_general.weight": down, "gralora_B_general.weight": up}
    return {
        "c3a": Example({"c3a_kernel": circle}, LINE, additive(LINE, circulant(circle))),
        "c3a-point": Example({"c3a_kernel": circle}, POINT, additive(POINT, circulant(circle))),
        "c3a-row": Example({"c3a_kernel": wide}, (6, 12), additive((6, 12), circulant(wide))),
        "delora": Example(delora, LINE, additive(LINE, bounded)),
        "gralora": Example(gralora | alpha, LINE, additive(LINE, times(0.75, blockwise))),
        "gralora-no-alpha": Example(gralora, POINT, additive(POINT, blockwise)),
        "gralora-hybrid": Example(
            gralora | hybrid | alpha, LINE, additive(LINE, lambda o, i: 0.5 * (blockwise(o, i) + general(o, i)))
        ),
        "miss": Example({"miss_block": block}, LINE, additive(LINE, lambda o, i: block[i % 3, o].double())),
        "miss-mini": Example(
            {"miss_block": small}, LINE, additive(LINE, lambda o, i: small[i % 3, o % 2].double()), only(miss_mini=1.0)
        ),
        "shira": Example(
            {"shira_weight": values, "shira_indices": places}, LINE, additive(LINE, lambda o, i: sparse[o, i])
        ),
        "shira-point": Example(
            {"shira_weight": values, "shira_indices": places.float()},
            POINT, additive(POINT, lambda o, i, *k: sparse[o, i]),
        ),
    }  # fmt: skip


def multiplied() -> dict[str, Example]:
    up, down, wide, blocks = torch.randn(6, 2), torch.randn(2, 8), torch.randn(2, 8, 3, 2), torch.randn(3, 2, 2)
    weight, bias, matrix = torch.randn(6), torch.randn(6), torch.randn(LINE)
    line, spatial = pair(up, down), pair(up, wide)

    def times_base(factor: Callable[..., Tensor]) -> Slow:
        return lambda base, strength: strength * entries(tuple(base.shape), lambda *index: base[index] * factor(*index))

    def bat(base: Tensor) -> Tensor:
        out = base.clone()
        for j in range(3):
            for n in range(4):
                spot = slice(2 * j, 2 * j + 2), slice(2 * n, 2 * n + 2)
                out[spot] += base[spot] @ blocks[j].double() + blocks[j].double()
        return out

    def replaced(value: Tensor) -> Slow:
        return lambda base, strength: strength * (value.double() - base)

    whole = {"ln_tuning_layers.weight": weight, "ln_tuning_layers.bias": bias}
    return {
        "hira": Example({"hira_A": down, "hira_B": up}, LINE, times_base(line)),
        "hira-conv": Example({"hira_A": wide, "hira_B": up[:, :, None, None]}, CONV, times_base(spatial)),
        "miss-bat": Example({"miss_block": blocks}, LINE, linear(bat)),
        "ln-tuning": Example(whole, (6,), replaced(weight)),
        "ln-tuning-no-bias": Example({"ln_tuning_layers.weight": weight}, (6,), replaced(weight)),
        "ln-tuning-line": Example({**whole, "ln_tuning_layers.weight": matrix}, LINE, replaced(matrix)),
    }


def tuners() -> dict[str, Example]:
    torch.manual_seed(7)
    return bofts() | hras() | defts() | additives() | multiplied()
